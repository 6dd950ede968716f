# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3.1 What transfer learning is
#
# A network that has learned to tell a teapot from a truck knows something that helps with cats and dogs. In this lesson
# you look at what that is, layer by layer, and measure for which images it helps, and for which it doesn't.
#
# **You will be able to** read features out of any layer, measure which layer serves a task, compare two networks' features,
# and decide whether to start from a pre-trained network.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 0.

# %%
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
MINI = runtime.profile == "mini"
backbone = tl.models.create(BACKBONE).to(runtime.device).eval()
names = ("toypets", "landuse", "surfaces", "digits")
sets = {name: tl.data.load(name, model=backbone).plain() for name in names}
tl.plots.images(
    [sets[name].train.raw(i) for i in (0, -1) for name in names],
    [
        f"{n}: {sets[n].classes[sets[n].train.labels[i]]}"
        for i in (0, -1)
        for n in names
    ],
    columns=4,
    title="Four tasks, nearer to and further from what a camera sees",
)

# %% [markdown]
# **Transfer learning** uses what was learned on one task, the source, for another one, the target. Here the source is
# Tiny ImageNet, images of many kinds of things from a camera, and the targets are the four tasks above. All but the digits are drawn by this course's own code.
#
# ## The sources in figures

# %%
tl.Table(
    {
        "source": name,
        "training images": images,
        "classes": classes,
        "pixels": pixels,
    }
    for name, images, classes, pixels in (
        ("ImageNet (ILSVRC 2012)", 1_281_167, 1_000, "full size"),
        ("all of ImageNet, 2011", 14_197_122, 21_841, "full size"),
        ("Tiny ImageNet, of `tl_resnet`", 100_000, 200, "64 x 64"),
    )
)

# %% [markdown]
# Sources: [Russakovsky and others](https://arxiv.org/abs/1409.0575), and the model card of `tl_resnet`, the small
# backbone that comes with this course. When people say that a model was trained on ImageNet, they mean the first row.
#
# ## Edges first, things later
#
# A convolution slides small filters over the image. Where the image looks like the filter, the output is large. The first
# layer sees pixels, so you can draw its filters as small images.

# %% tags=["nbval-ignore-output"]
from torch import nn

first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
filters = first.weight.detach().cpu()
low = filters.amin((1, 2, 3), keepdim=True)
high = filters.amax((1, 2, 3), keepdim=True)
shades = (filters - low) / (high - low)
strongest = filters.flatten(1).std(1).argsort(descending=True)
tl.plots.images(
    [shades[i] for i in strongest[:10]],
    title="The first layer looks for edges and for colours",
)

# %% [markdown]
# Deeper layers see what the layers before them have made of the image, so their filters say nothing by themselves.
# Instead, ask which images a unit responds to most. For three of the tasks, take the unit that stands out most for it. A **hook** is a function that PyTorch calls whenever a module runs.

# %% tags=["nbval-ignore-output"]
import torch


def mean_outputs(model, stage, images, device):
    """Return each channel's mean output, `(images, channels)`."""
    rows = []
    module = model.get_submodule(stage)
    hook = module.register_forward_hook(
        lambda module, inputs, output: rows.append(
            output.mean((2, 3)).cpu()
        )
    )
    with torch.no_grad():
        for batch, _ in torch.utils.data.DataLoader(images, batch_size=50):
            model(batch.to(device))
    hook.remove()
    return torch.cat(rows)


own = sets["digits"].val
by_hand = mean_outputs(backbone, "layer4", own, runtime.device)
val = {n: tl.features.stage_features(backbone, sets[n].val) for n in names}
same = torch.allclose(val["digits"]["layer4"].x, by_hand, atol=1e-4)
tl.claim("`tl.features.stage_features` reads the same", same)

# %% tags=["nbval-ignore-output"]
part = {name: stages["layer4"].x for name, stages in val.items()}
mixed = torch.cat(list(part.values()))
where = [(name, i) for name in names for i in range(len(part[name]))]
best = []
for name in ("toypets", "landuse", "digits"):
    stands_out = (part[name].mean(0) - mixed.mean(0)) / mixed.std(0)
    unit = mixed[:, stands_out.argmax()]
    best += [where[row] for row in unit.topk(5).indices]
tl.plots.images(
    [sets[name].val.raw(i) for name, i in best],
    [name for name, _ in best],
    title="What excites three units of the last stage, one unit per row",
)

# %% [markdown]
# ### Your turn
#
# Write a function that returns the mean output of `layer2` for a batch of images, `(images, channels)`, with a hook. It
# must leave no hook behind.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(model, images):
#     rows = []
#     hook = model.layer2.register_forward_hook(
#         lambda module, inputs, output: rows.append(output.mean((2, 3)))
#     )
#     with torch.no_grad():
#         model(images)
#     hook.remove()
#     return rows[0]
# ```
# </details>

# %%
answer = ...  # a function: def layer2_means(model, images): ...
tl.check("3.1/hook", answer)

# %% [markdown]
# ## Which stage serves which task?
#
# If a stage has what a task needs, a linear classifier on its output does well: a **probe**. It is fitted to training
# images and measured on validation images, with ten draws of the training images and one
# penalty for all.

# %%
guess = tl.guess(
    "For which task is a middle stage as good as the last one, or better?",
    ["toy pets", "land use", "digits", "none"],
)

# %% tags=["nbval-ignore-output"]
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def probe_accuracy(train, val, images, seed):
    """Fit a probe on some of the training images; return its accuracy."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train.y), generator=generator)[:images]
    regression = LogisticRegression(C=0.01, max_iter=1000)
    probe = make_pipeline(StandardScaler(), regression)
    probe.fit(train.x[rows], train.y[rows])
    return probe.score(val.x, val.y)


profile = {}
for name, own in sets.items():
    train = tl.features.stage_features(backbone, own.take(train=150).train)
    profile[name] = {}
    for stage in train:
        seeds, both = runtime.seeds(10), (train[stage], val[name][stage])
        found = [probe_accuracy(*both, 100, seed) for seed in seeds]
        profile[name][stage] = sum(found) / len(found)

# %% tags=["nbval-ignore-output"]
best = {
    name: max(stages, key=stages.get) for name, stages in profile.items()
}
last = [name for name, stage in best.items() if stage == "layer4"]
tl.plots.depth(
    profile,
    chance={name: 1 / len(own.classes) for name, own in sets.items()},
    title=f"The last stage is best for {len(last)} of {len(best)} tasks",
)
guess.compare(", ".join(f"{name}: {stage}" for name, stage in best.items()))

# %% [markdown]
# ## What fine-tuning changes
#
# Two networks give the same images different features. **Linear CKA** says how similar two sets of features are: from the
# centred features $X$ and $Y$ of the same images, one image per row,
#
# $$\mathrm{CKA} = \frac{\lVert X^\top Y\rVert_F^2}{\lVert X^\top X\rVert_F\,\lVert Y^\top Y\rVert_F}$$
#
# It is one if $Y$ is $X$ rotated or scaled, and close to zero if they have nothing in common ([Kornblith and
# others](https://arxiv.org/abs/1905.00414)). $\lVert\cdot\rVert_F$ is the root of the sum of all squares.

# %%
guess = tl.guess(
    "Fine-tune all layers on pets. Which stage's features change most?",
    ["the first", "the last", "all alike"],
)


# %% tags=["nbval-ignore-output"]
def cka(x, y):
    """Return the similarity of features `(N, D)` and `(N, E)`."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (
        (x.T @ y).norm() ** 2 / (x.T @ x).norm() / (y.T @ y).norm()
    ).item()


# %% tags=["nbval-ignore-output"]
pets = tl.data.load("toypets", model=backbone)
way = tl.experiments.Trained(lr=0.001, passes=8, model=BACKBONE)
tuned, _ = way.fit(pets, 80, runtime.seed)
old = val["toypets"]
new = tl.features.stage_features(tuned, sets["toypets"].val)
similar = {stage: cka(old[stage].x, new[stage].x) for stage in old}
tl.plots.bars(
    {stage: [value] for stage, value in similar.items()},
    xlabel="similarity before and after fine-tuning (linear CKA)",
    title="Fine-tuning changes the last stage most",
)
order = list(similar.values())
guess.compare(min(similar, key=similar.get))
tl.claim(
    "the last stage changes more than the first",
    order[-1] < order[0] - 0.05,
    f"CKA {order[-1]:.2f} against {order[0]:.2f}",
)

# %% [markdown]
# ## Where each approach wins
#
# The two approaches are **feature extraction**, which keeps the backbone frozen (3.2), and **fine-tuning**, which trains
# it further (3.3). The usual rule goes by the number of images. Here is a map instead: how far the images are from those
# of the source, and how many there are. The **domain gap** compares the statistics of each batch norm with those of your
# images; nothing is trained for it.
#
# All accuracies of the map are **stored runs**, which came with the package. What is studied: the way, the task and the
# number of images. The rates were tuned for each way and task, with other seeds. Architecture and passes are fixed. A cell names the best way. Where a second way is
# named too, the interval of their difference includes zero.

# %%
guess = tl.guess(
    "Is there a cell where training from scratch wins?",
    ["yes: few images", "yes: far images, many of them", "no"],
)

# %% tags=["nbval-ignore-output"]
stored = tl.experiments.stored("map")
best = stored.winners()
gaps = {}
for name in best:
    images = tl.data.load(name, model=backbone, train=80).plain()
    gaps[name] = tl.features.domain_gap(backbone, images.train)[-1]["gap"]
cells = [ways for row in best.values() for ways in row.values()]
tuned, new = cells.count(["fine-tuned"]), cells.count(["scratch"])
tl.plots.winners(
    best,
    gaps,
    title=f"Fine-tuning leads alone in {tuned} of {len(cells)} cells",
)
guess.compare(f"scratch leads alone in {new} of {len(cells)} cells")

# %% tags=["nbval-ignore-output"]
digits = stored.only(data="digits")
hurt = {n: digits.difference("frozen", "scratch", n) for n in (20, 80, 320)}
for n, lead in hurt.items():
    print(f"digits, {n:3} images: frozen minus scratch {lead}")
tl.claim(
    "on the digits, frozen features lose to training from scratch, except "
    "with the fewest images",
    hurt[80].mean < -hurt[80].margin and hurt[320].mean < -hurt[320].margin,
)

# %% [markdown]
# Read the map with care. It holds for one small backbone, for these tasks and sizes. A shared cell doesn't say that two
# ways are equal: five runs each can't tell them apart.
#
# ## When it hurts
#
# **Negative transfer** is when a source is worse than having none. On the digits, frozen features lose to a network that
# has never seen anything else. Even bare pixels may be better: compare two probes, one on the backbone's features,
# one on the pixels of the same images.

# %%
guess = tl.guess(
    "Digits, 200 training images: what is better to fit a probe on?",
    ["the backbone's features", "the pixels", "no difference"],
)


# %% tags=["nbval-ignore-output"]
def pixels_of(images):
    """Return the pixels, averaged to 8 x 8, as if they were features."""
    stack = torch.stack([image for image, _ in images])
    small = nn.functional.adaptive_avg_pool2d(stack, 8).flatten(1)
    return tl.features.Features(small, images.labels)


worth = {}
for name in ("toypets", "digits"):
    own, pairs = sets[name].take(train=400), []
    pixels = pixels_of(own.train), pixels_of(own.val)
    features = [
        tl.features.extract(backbone, s) for s in (own.train, own.val)
    ]
    for seed in runtime.seeds(10):
        with_features = probe_accuracy(*features, 200, seed)
        pairs.append(with_features - probe_accuracy(*pixels, 200, seed))
    worth[name] = tl.experiments.Difference(tuple(pairs))
    print(f"{name}: features minus pixels {worth[name]}")

# %% tags=["nbval-ignore-output"]
guess.compare(f"features minus pixels {worth['digits'].mean:+.3f}")
tl.claim(
    "the features help with pets, and hurt with digits",
    worth["toypets"].mean > worth["toypets"].margin
    and worth["digits"].mean < -worth["digits"].margin,
)

# %% [markdown]
# ## The trap: other preprocessing
#
# Weights belong with the preprocessing that they were trained with. Without it, nothing fails: the features are worse, and
# no error says so. Here the images are scaled to values between zero and one, and not normalised.

# %%
guess = tl.guess(
    "Without normalising, a probe on the features of toy pets is",
    ["as good", "a little worse", "no better than guessing"],
)

# %% tags=["nbval-ignore-output"]
from torchvision.transforms import v2

size = pets.preprocessing.size
to_floats = v2.ToImage(), v2.ToDtype(torch.float32, scale=True)
raw = v2.Compose([v2.Resize(size), v2.CenterCrop(size), *to_floats])
own, found = sets["toypets"].take(train=400), {}
for name in ("right", "raw"):
    parts = own.train, own.val
    if name == "raw":
        parts = [part.with_transform(raw) for part in parts]
    found[name] = [tl.features.extract(backbone, part) for part in parts]
changes = []
for seed in runtime.seeds(10):
    right, wrong = (
        probe_accuracy(*both, 200, seed) for both in found.values()
    )
    changes.append(wrong - right)
cost = tl.experiments.Difference(tuple(changes))
guess.compare(f"accuracy without normalising, minus with it: {cost}")

# %% tags=["nbval-ignore-output"]
model = tl.models.create(BACKBONE, 2).to(runtime.device)
images = own.train.with_transform(raw)
loader = torch.utils.data.DataLoader(images, batch_size=50, shuffle=True)
report = tl.examine(model, data=loader)
tl.claim("the doctor sees it", bool(report.named("not-normalised")))
report

# %% [markdown]
# The **doctor**, `tl.examine`, sees it from the values of a few images. A probe that is fitted to such features gets used to
# part of the damage; a head that was fitted to the right ones doesn't.
#
# ## Your own images
#
# How far are yours? Set `FOLDER` to a folder with one subfolder per class. Below, a linear probe on all of your training
# images becomes the head, and the test set is read once.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"

place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=backbone)
gap = tl.features.domain_gap(backbone, mine.plain().train)[-1]["gap"]
model = tl.models.create(BACKBONE, len(mine.classes)).to(runtime.device)
result = tl.recipes.linear_probe(model, mine)
print(f"gap {gap:.2f}\nvalidation {result.val}\ntest, once {result.test}")

file = Path("runs") / "my-probe.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
image = mine.test.sources[0]
answer = tl.predict.predict_files(loaded, about["classes"], [image])[0]
print(f"{image.name}: {answer.label}, {answer.probability:.2f}")

# %% [markdown]
# ## Take-away
#
# - Early layers see edges and colours; units further up respond to kinds of things.
# - Fine-tuning changes the last stage more than the first.
# - Which way is best depends on the task and on the number of images: measure it, and start with the cheap one.
# - A source can hurt: on the digits, bare pixels beat the backbone's features.
# - Weights belong with their preprocessing.
#
# <details><summary>A colleague has scans of circuit boards. Which layer's features should they use?</summary>
#
# Nobody knows before measuring. Fit a probe on each stage's output, as above, and compare on the validation set.
# </details>
#
# <details><summary>CKA of two networks' features is one. Do they give the same predictions?</summary>
#
# Not with the same head: the features may be rotated or scaled. A probe fitted anew would do about as well on both.
# </details>
#
# <details><summary>How would you run Grad-CAM on a network of your own?</summary>
#
# With a hook on the last stage, as above, that keeps its output and the gradient of a class's score with respect to it.
# The channels' outputs, weighted by their mean gradients, give the map.
# </details>
#
# **Read on:** [Yosinski and others](https://arxiv.org/abs/1411.1792), *How transferable are features in deep neural
# networks?*; [Raghu and others](https://arxiv.org/abs/1902.07208), *Transfusion*, on medical images. Next: 3.2, feature
# extraction.
