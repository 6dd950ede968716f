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
# A network that has learned to tell a teapot from a school bus knows something that helps with cats and dogs. In this lesson
# you look at what that is, layer by layer, and measure for which images it helps, and for which it doesn't.
#
# **You will be able to** read features out of any layer, measure which layer serves a task, compare two networks' features,
# and decide what to try first with images of your own.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 0.

# %%
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
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
# **Transfer learning** uses what was learned on one task, the **source**, for another one, the **target**. The targets are the
# four tasks above; all but the digits are drawn by this course's own code. The source is Tiny ImageNet, images of many kinds
# of things from a camera, real cats and dogs among them (with a GPU, in the profile `full`, it is ImageNet).
#
# A network for images is a stack of layers. The last one, the **head**, gives a score for each class. All below it is the
# **backbone**, and what it puts out are **features**. Its layers come in a few **stages**, the first of which is the
# **stem**; a channel of their output is also called a **unit**.
#
# ## The sources in figures

# %%
tl.Table(
    {"source": name, "images": images, "classes": classes, "pixels": size}
    for name, images, classes, size in (
        ("ImageNet (ILSVRC 2012)", 1_281_167, 1_000, "full size"),
        ("all of ImageNet", 14_197_122, 21_841, "full size"),
        ("Tiny ImageNet, of `tl_resnet`", 100_000, 200, "64 x 64"),
    )
)

# %% [markdown]
# Sources: [Russakovsky and others](https://arxiv.org/abs/1409.0575), and the model card of `tl_resnet`, the small
# backbone that comes with this course. When people say that a model was trained on ImageNet, they usually mean the first row.
#
# ## What units respond to
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
    title="The ten strongest first-layer filters: edges and colours",
)

# %% [markdown]
# Deeper layers see what the layers before them have made of the image, so their filters say nothing by themselves.
# Instead, ask which images a unit responds to most. For three of the tasks, take the unit that stands out most for it. A **hook** is a function that PyTorch calls whenever a module runs.

# %% tags=["nbval-ignore-output"]
import torch


def outputs(model, stage, images, device, grid=1):
    """Return a stage's outputs, averaged over the cells of a grid."""
    rows = []

    def keep(module, inputs, output):
        cells = nn.functional.adaptive_avg_pool2d(output, grid)
        rows.append(cells.flatten(1).cpu())

    hook = model.get_submodule(stage).register_forward_hook(keep)
    with torch.no_grad():
        for batch, _ in torch.utils.data.DataLoader(images, batch_size=50):
            model(batch.to(device))
    hook.remove()
    return torch.cat(rows)


own = sets["digits"].val
by_hand = outputs(backbone, "layer4", own, runtime.device)
val = {n: tl.features.stage_features(backbone, sets[n].val) for n in names}
same = torch.allclose(val["digits"]["layer4"].x, by_hand, atol=1e-4)
print("`tl.features.stage_features` reads the same:", same)

# %% tags=["nbval-ignore-output"]
TASKS = ("toypets", "landuse", "digits")
few = {n: sets[n].take(train=150).train for n in names}
known = {n: tl.features.stage_features(backbone, few[n]) for n in names}
seen = torch.cat([known[name]["layer4"].x for name in names])
shown = torch.cat([val[name]["layer4"].x for name in names])
where = [(n, i) for n in names for i in range(len(sets[n].val))]
best = []
for name in TASKS:
    stands_out = known[name]["layer4"].x.mean(0) - seen.mean(0)
    unit = (stands_out / (seen.std(0) + 1e-6)).argmax()
    best += [where[row] for row in shown[:, unit].topk(5).indices]
tl.plots.images(
    [sets[name].val.raw(i) for name, i in best],
    [f"{n}: {sets[n].classes[sets[n].val.labels[i]]}" for n, i in best],
    title="What excites three units of the last stage, one unit per row",
)

# %% [markdown]
# The units were chosen on training images; these are validation images. They separate tasks. What they detect, you don't
# know: it may be a shape, a texture or a contrast.
#
# ### Your turn
#
# Write a function that returns the mean output of `layer2` for a batch of images, `(images, channels)`. A hook does it, and
# must not stay behind.
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
answer = ...  # replace this line: def answer(model, images): ...
tl.check("3.1/hook", answer)

# %% [markdown]
# ## Which stage serves which task?
#
# A **probe** is a linear classifier on a stage's output, here averaged over positions. Where it does well, the stage has what
# the task needs; where it doesn't, the average may have lost it. It is fitted to training
# images and measured on validation images, with ten draws of the training images and one
# penalty for all. The draws overlap and the validation images stay the same, so the intervals are narrower than those of new
# experiments. The printed differences are in accuracy; the figure puts guessing at zero and perfect at one.

# %%
stage_guess = tl.guess(
    "For which task is a middle stage as good as the last one, or better?",
    ["toy pets", "land use", "surfaces", "digits", "none"],
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


# %% tags=["nbval-ignore-output"]
found = {name: {} for name in sets}
for name in sets:
    for stage, train in known[name].items():
        both = train, val[name][stage]
        found[name][stage] = [
            probe_accuracy(*both, 100, seed) for seed in runtime.seeds(10)
        ]
profile = {
    name: {stage: sum(runs) / len(runs) for stage, runs in stages.items()}
    for name, stages in found.items()
}

# %% tags=["nbval-ignore-output"]
ahead = {}
for name, stages in found.items():
    *others, last = profile[name]
    middle = max(others, key=profile[name].get)
    pairs = zip(stages[last], stages[middle], strict=True)
    ahead[name] = tl.experiments.Difference(tuple(a - b for a, b in pairs))
    print(f"{name}: {last} minus {middle} {ahead[name]}")
behind = [n for n, lead in ahead.items() if lead.mean <= lead.margin]
tl.plots.depth(
    profile,
    chance={name: 1 / len(own.classes) for name, own in sets.items()},
    title=f"The last stage leads for {4 - len(behind)} of 4 tasks",
)
stage_guess.compare(", ".join(behind) or "none")

# %% [markdown]
# Later stages also have more channels, which helps a probe. So this says which features serve, not why.
#
# ## What fine-tuning changes
#
# Two networks give the same images different features. **Linear CKA** says how similar two sets of features are: from the
# centred features $X$ and $Y$ of the same images, one image per row,
#
# $$\mathrm{CKA} = \frac{\lVert X^\top Y\rVert_F^2}{\lVert X^\top X\rVert_F\,\lVert Y^\top Y\rVert_F}$$
#
# It is one if $Y$ is $X$ rotated or scaled, and smaller the less they have in common ([Kornblith and
# others](https://arxiv.org/abs/1905.00414)). $\lVert\cdot\rVert_F$ is the root of the sum of all squares. With few images it
# doesn't reach zero, so the figure has a reference: the same features with their images shuffled.

# %%
change_guess = tl.guess(
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


pets = tl.data.load("toypets", model=backbone)
way = tl.experiments.Trained(lr=0.001, passes=8, model=BACKBONE)
tuned, _ = way.fit(pets, 80, runtime.seed)
old = val["toypets"]
new = tl.features.stage_features(tuned, sets["toypets"].val)

# %% tags=["nbval-ignore-output"]
similar = {stage: cka(old[stage].x, new[stage].x) for stage in old}
changed = min(similar, key=similar.get)
mixed = torch.randperm(
    len(old["layer4"].x), generator=torch.Generator().manual_seed(0)
)
shuffled = cka(old["layer4"].x, old["layer4"].x[mixed])
tl.plots.bars(
    {stage: [value] for stage, value in similar.items()}
    | {"layer4, shuffled": [shuffled]},
    xlabel="similarity before and after fine-tuning (linear CKA)",
    title=f"The features of {changed} change most",
)
change_guess.compare(changed)
ends = similar["layer4"], similar[next(iter(similar))]
tl.claim(
    "the last stage changes more than the first", ends[0] < ends[1] - 0.2
)

# %% [markdown]
# A stage's features change with all stages below it, so changes add up on the way. This is one run.
#
# ## Where each way wins
#
# There are three ways: training **from scratch**, **feature extraction**, which keeps the backbone frozen (3.2), and
# **fine-tuning**, which trains it further (3.3). The usual rule: extract with few images, fine-tune with many. Here is a map instead: how far the images are
# from those of the source, and how many there are. A batch norm remembers its inputs' mean and deviation on the source. The
# **domain gap** compares these with your images': zero if they agree, one if the mean is off by a standard deviation. It sees statistics, not what is shown.
#
# All accuracies of the map are **stored runs**, which came with the package. What is studied: the way, the task and the
# number of images. The learning rates were chosen among three for each way that trains and each task, at one number of images and with other seeds.
# The architecture is fixed; scratch gets more passes, and is still short.
# A cell names the best way. Where a second way is named too, the interval of their difference includes zero. An empty cell
# was not run, and neither was `surfaces`. `toypets-silhouette` is the toy pets as black shapes.

# %%
cell_guess = tl.guess(
    "Is there a cell where training from scratch leads alone?",
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
alone = cells.count(["fine-tuned"])
tl.plots.winners(
    best,
    gaps,
    title=f"Fine-tuning leads alone in {alone} of {len(cells)} cells",
)
cell_guess.compare(
    f"scratch leads alone in {cells.count(['scratch'])} cells"
)
near = sum("fine-tuned" in ways for ways in cells)
print(f"fine-tuning is named in {near} of {len(cells)} cells,", end=" ")
print("frozen features in", sum("frozen" in ways for ways in cells))

# %% [markdown]
# On this map, fine-tuning is among the best in every cell; scratch shares two, with the larger gaps and the most images run. Still, try frozen features first: a probe takes
# seconds, and tells you what fine-tuning has to beat. The map holds for one small backbone, `tl_resnet`; in `full`, the gaps shown are ResNet-50's. The tasks differ in
# difficulty, too, so it doesn't show what the gap causes. On the toy pets, so short a training from scratch stays
# near guessing. A shared cell doesn't say that two ways are equal: five runs each can't tell them apart.
#
# ## When it hurts
#
# **Negative transfer** is when using a source is worse than doing without. Look at the digits.

# %% tags=["nbval-ignore-output"]
digits = stored.only(data="digits")
for way in ("frozen", "fine-tuned"):
    for n in (20, 80, 320):
        lead = digits.difference(way, "scratch", n)
        print(f"{n:3} digits: {way} minus scratch {lead}")
hurt = {n: digits.difference("frozen", "scratch", n) for n in (80, 320)}
tl.claim(
    "with enough digits, frozen features lose to training from scratch",
    all(lead.mean < -lead.margin for lead in hurt.values()),
)

# %% [markdown]
# Is the source to blame, or the way its features are read? A backbone ends with an average over all positions. For a pet,
# it doesn't matter where it is. For a digit, it matters where each stroke is. So fit probes to: `pixels`; `averaged` features;
# `grid`, `layer2` averaged in `4 x 4` cells; both with random weights; and `2 x 2` cells, as few numbers as averaged.

# %%
digits_guess = tl.guess(
    "Digits: which of these beat the pixels?",
    ["none", "averaged features", "layer2 in a grid", "both"],
)

# %% tags=["nbval-ignore-output"]
digit_set = sets["digits"].take(train=400)
parts, device = (digit_set.train, digit_set.val), runtime.device
torch.manual_seed(runtime.seed)
blank = tl.models.create(BACKBONE, weights=None).to(device).eval()
pixels = [torch.stack([image for image, _ in part]) for part in parts]
inputs = {
    "pixels": [nn.functional.adaptive_avg_pool2d(p, 8) for p in pixels],
    "random averaged": [outputs(blank, "layer4", p, device) for p in parts],
    "averaged": [outputs(backbone, "layer4", p, device) for p in parts],
    "random grid": [outputs(blank, "layer2", p, device, 4) for p in parts],
    "grid": [outputs(backbone, "layer2", p, device, 4) for p in parts],
    "2 x 2": [outputs(backbone, "layer2", p, device, 2) for p in parts],
}
worth = {name: [] for name in inputs}
for name, xs in inputs.items():
    pairs = zip(xs, parts, strict=True)
    both = [tl.features.Features(x.flatten(1), p.labels) for x, p in pairs]
    for seed in runtime.seeds(10):
        worth[name].append(probe_accuracy(*both, 200, seed))

# %% tags=["nbval-ignore-output"]
tl.plots.runs(
    {name: {200: runs} for name, runs in worth.items()},
    chance=1 / len(digit_set.classes),
    title="The same backbone loses or wins, by how its features are read",
)
leads = {}
for name in ("averaged", "random grid", "2 x 2", "grid"):
    pairs = zip(worth[name], worth["pixels"], strict=True)
    leads[name] = tl.experiments.Difference(tuple(a - b for a, b in pairs))
    print(f"{name} minus pixels: {leads[name]}")
wins = {n: leads[n].mean > leads[n].margin for n in ("averaged", "grid")}
digits_guess.compare(", ".join(n for n in wins if wins[n]) or "none")
if runtime.profile == "mini":
    tl.claim(
        "averaged, features lose to pixels; in a grid, they win",
        leads["averaged"].mean < -leads["averaged"].margin and wins["grid"],
    )

# %% [markdown]
# Averaged, pre-trained features are far ahead of random ones. In a grid, even random weights are slightly ahead of the pixels,
# and pre-trained ones add to that. Averaged, `layer2` was behind `layer4` above, so it is the grid that helps: averaging does at
# least part of the harm.
#
# ### Your turn
#
# Write the function that reads features in a grid: from a stage's output `(N, C, H, W)` and a number `k`, the means in
# `k x k` cells, channel by channel, as `(N, C * k * k)`.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(output, k):
#     return nn.functional.adaptive_avg_pool2d(output, k).flatten(1)
# ```
# </details>

# %%
answer = ...  # replace this line: def answer(output, k): ...
tl.check("3.1/grid", answer)

# %% [markdown]
# ## The trap: other preprocessing
#
# Weights belong with the preprocessing that they were trained with. Without it, nothing fails: the features are worse, and
# no error says so. Here the images are scaled to values between zero and one, and not normalised.

# %%
scale_guess = tl.guess(
    "A head was fitted to toy pets that were prepared right. "
    "On images that are not normalised, its accuracy",
    ["stays", "falls a little", "falls by over ten points"],
)

# %% tags=["nbval-ignore-output"]
from torchvision.transforms import v2

size = sets["toypets"].preprocessing.size
to_floats = v2.ToImage(), v2.ToDtype(torch.float32, scale=True)
raw = v2.Compose([v2.Resize(size), v2.CenterCrop(size), *to_floats])
toys, x = sets["toypets"].take(train=400), {}
for name in ("right", "raw"):
    parts = toys.train, toys.val
    if name == "raw":
        parts = [part.with_transform(raw) for part in parts]
    x[name] = [tl.features.extract(backbone, part) for part in parts]
costs = {"raw": [], "right": []}  # by what the head was fitted to
for seed in runtime.seeds(10):
    right = probe_accuracy(*x["right"], 200, seed)
    for fitted in costs:
        train, val_x = x[fitted][0], x["raw"][1]
        wrong = probe_accuracy(train, val_x, 200, seed)
        costs[fitted].append(wrong - right)

# %% tags=["nbval-ignore-output"]
lost = {f: tl.experiments.Difference(tuple(c)) for f, c in costs.items()}
scale_guess.compare(f"{100 * lost['right'].mean:+.0f} points")
print(f"the head fitted to right images: {lost['right']}")
print(f"a head fitted to raw images, too: {lost['raw']}")
tl.claim(
    "the right head loses over ten points on images not normalised",
    lost["right"].mean + lost["right"].margin < -0.1,
)
unfit = tl.models.create(BACKBONE, 2).to(runtime.device)
for images in (toys.train.with_transform(raw), toys.train):
    loader = torch.utils.data.DataLoader(
        images, batch_size=50, shuffle=True
    )
    seen_it = tl.examine(unfit, data=loader).named("not-normalised")
    print("the doctor finds it:", bool(seen_it))
    print(*seen_it[:1])

# %% [markdown]
# The **doctor**, `tl.examine`, sees it from the values of a few images, and doesn't find it after the repair. A head that
# is fitted to raw images gets used to most of the damage. One that was fitted to the right ones doesn't, and that is
# the usual accident: training was right, and the program that predicts prepares images in another way.
#
# ## Your own images
#
# How far are yours? Set `FOLDER` to a folder with one subfolder per class. Below, a linear probe becomes the
# head. Its validation accuracy is that of a probe fitted to the training images; then the validation images join them, and
# the test set is read once.

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
near = min(gaps, key=lambda name: abs(gaps[name] - gap))
print(f"of the map's tasks, {near} has the nearest gap")
model = tl.models.create(BACKBONE, len(mine.classes)).to(runtime.device)
result = tl.recipes.linear_probe(model, mine)
print(f"gap {gap:.2f}\nvalidation {result.val}\ntest, once {result.test}")

# %% tags=["nbval-ignore-output"]
file = Path("runs") / "my-probe.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
image = mine.test.sources[0]
answer = tl.predict.predict_files(loaded, about["classes"], [image])[0]
print(f"{image.name}: {answer.label}, {answer.probability:.2f}")

# %% [markdown]
# ## Take-away
#
# - First-layer filters look like edges and colours; some units of the last stage respond mostly to one task's images.
# - Here, fine-tuning changed the features of the last stage more than those of the first.
# - In the map, fine-tuning is among the best everywhere; a probe takes seconds, so try it first.
# - With enough digits, averaged features lose to training from scratch. Read in a grid, the same backbone beats the pixels.
# - Weights belong with their preprocessing.
#
# <details><summary>A colleague has scans of circuit boards. Which layer's features should they use?</summary>
#
# Nobody knows before measuring. Fit a probe on each stage's output, as above, and compare on the validation set.
# </details>
#
# <details><summary>CKA of two networks' features is one. Do they give the same predictions?</summary>
#
# Not necessarily: the features may be rotated or scaled, and then the old head no longer fits.
# </details>
#
# <details><summary>Why do averaged features lose on digits?</summary>
#
# An average drops where a stroke is. A grid keeps it, coarsely.
# </details>
#
# **Read on:** [Yosinski and others](https://arxiv.org/abs/1411.1792), *How transferable are features in deep neural
# networks?*; [Raghu and others](https://arxiv.org/abs/1902.07208), *Transfusion*, on medical images. Next: 3.2, feature
# extraction.
