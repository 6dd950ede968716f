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
# # 3.5 timm: one interface for all networks
#
# timm is a library of image networks, far larger than torchvision, and all of them are made, cut and prepared in the
# same way. In this lesson you learn that way, with a network whose weights came with this course.
#
# **You will be able to** find a network and its weights, read its features at every level, prepare images as it wants them,
# say what drop path does, and compare networks fairly.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 3.4.

# %%
import timm
import torch

BACKBONE = {"mini": "tl_resnet", "full": "timm/resnet50"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 100 or more
MINI = runtime.profile == "mini"

backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS)
pets = tl.data.load(DATA, model=backbone, train=LIMIT).plain()
image = pets.val[0][0][None]
pyramid = timm.create_model(
    "tl_resnet", pretrained=True, features_only=True
).eval()
LEVELS = pyramid.feature_info.module_name()
with torch.no_grad():
    levels = pyramid(torch.nn.functional.interpolate(image, 64))
for name, level in zip(LEVELS, levels, strict=True):
    print(f"{name:7} {tuple(level.shape)}")

# %%
shown = [pets.preprocessing.undo(image[0])]
for level in levels[1:]:
    heat = level[0].mean(0, keepdim=True).expand(3, -1, -1)
    shown.append((heat - heat.min()) / (heat.max() - heat.min()))
tl.plots.images(
    shown,
    ["image", *LEVELS[1:]],
    columns=5,
    title="From level to level, features get coarser",
)

# %% [markdown]
# That was `features_only=True`: the outputs of all levels (timm's word for the ends of stages; `act1` ends the stem), for tasks that need positions, such as detection. The figure shows
# the mean over channels. From `layer2` on, each level has more channels and fewer positions than the one before.
#
# ## Find a network
#
# **From the chapter.** Example 7 names the numbers of models, of EfficientNets and of ViTs in timm. Such numbers age, so
# count. An **architecture** is code; a set of **weights** has a name of its own, such as
# `resnet50.tv_in1k`: the part after the dot, the **tag**, names the recipe of training or its data. A name without a tag, such as
# `resnet50`, stands for its default weights.

# %%
models_guess = tl.guess(
    "The chapter says: more than 700 models. How many does your timm know?",
    ["about 700", "about 1,000", "more than 1,300"],
)

# %% tags=["nbval-ignore-output"]
print("timm", timm.__version__)
names = timm.list_models(exclude_filters="tl_*")  # without ours
print(f"{len(names):,} architectures")
WITH = timm.list_pretrained(exclude_filters="tl_*")
print(f"{len(WITH):,} sets of weights")
CHAPTER = {"*efficientnet*": 45, "vit_*": 78}
for pattern, said in CHAPTER.items():
    hits = timm.list_pretrained(pattern)
    count = len({name.split(".")[0] for name in hits})
    print(f"{pattern:14} architectures with weights: {count},", end=" ")
    print(f"sets: {len(hits)}, chapter: {said}")
models_guess.compare(f"{len(names):,}")
print(timm.list_pretrained("resnet50.*")[:6])

# %% [markdown]
# The tag matters, too. timm publishes the accuracy of its weights on ImageNet; a few of them are in
# this package: `tl.cost.published()`, whose docstring has source and date.

# %%
tags_guess = tl.guess(
    "One ResNet-50, many sets of weights, measured at 224 pixels: "
    "how far apart are the best and the worst of them on ImageNet?",
    ["less than a point", "about two points", "about five points"],
)

# %%
published = {row["model"]: row for row in tl.cost.published()}
tags = {
    name.split(".")[1]: row["top-1"]
    for name, row in published.items()
    if name.startswith("resnet50.") and row["image size"] == 224
}
best, worst = max(tags.values()), min(tags.values())
tl.plots.bars(
    {tag: [value - worst] for tag, value in tags.items()},
    xlabel=f"points of accuracy on ImageNet above {worst:.1f} %",
    digits=1,
    title=f"One architecture, {best - worst:.0f} points between recipes",
)
tags_guess.compare(f"{best - worst:.1f} points")

# %% [markdown]
# All of these were measured with the same image size. Some recipes used more than ImageNet, as the tags with `ig1b` and
# `yfcc100m` say. So a set of weights is a whole recipe: write its tag down.
#
# ## Create, and cut
#
# `num_classes` puts in a new head, `num_classes=0` takes the head away. `forward_features` stops before pooling and head, and
# `forward_head(features, pre_logits=True)` does the rest up to the head. The calls are the same everywhere. The shapes are not: in
# `forward_features`, the ViT below gives one row for each patch of the image, and one more, the **class token**, which
# `num_classes=0` returns.

# %%
rows_guess = tl.guess(
    "Which of them gives one row of features for each image, "
    "whatever the network?",
    ["num_classes=0", "forward_features", "both"],
)

# %%
for name, size in (("tl_resnet", 64), ("vit_tiny_patch16_224", 224)):
    body = timm.create_model(name, num_classes=0).eval()
    x = torch.nn.functional.interpolate(image, size)
    with torch.no_grad():
        features = body.forward_features(x)
        rows = body.forward_head(features, pre_logits=True)
        print(f"{name}: forward_features {tuple(features.shape)},", end=" ")
        print(f"num_classes=0 {tuple(body(x).shape)}")
        print("    forward_head gives the same rows:", rows.equal(body(x)))
rows_guess.compare("num_classes=0")

# %% [markdown]
# ### Your turn
#
# Write a function that takes a name and returns a network with one row of features per image. Leave out pre-trained
# weights: they would have to be downloaded.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(name):
#     return timm.create_model(name, num_classes=0)
# ```
# </details>

# %%
answer = ...  # a function: def answer(name): ...
tl.check("3.5/features", answer)

# %% [markdown]
# ## Prepare images as the weights want them
#
# Each set of weights carries its preprocessing. `resolve_model_data_config` reads it, `create_transform` makes a transform
# of it; in this course, `tl.preprocessing.get_preprocessing` does both. A network that is made without its weights carries this
# configuration, too. **Normalisation** subtracts a mean and divides by a
# standard deviation, for each colour channel.

# %%
mean_guess = tl.guess(
    "How many of timm's sets of weights want ImageNet's normalisation?",
    ["all of them", "about nine in ten", "about two in three"],
)

# %% tags=["nbval-ignore-output"]
config = timm.data.resolve_model_data_config(backbone)
vit = timm.get_pretrained_cfg("vit_small_patch16_224")
print(
    f"{BACKBONE}: {config['input_size'][-1]} pixels, mean {config['mean']}"
)
print(f"vit_small: {vit.input_size[-1]} pixels, mean {vit.mean}")
theirs = timm.data.create_transform(**config)
raw = pets.val.raw(0)
if BACKBONE == "tl_resnet":
    ours = tl.preprocessing.get_preprocessing(backbone).evaluation()
    gap = (theirs(raw) - ours(raw)).abs().max().item()
    print(f"largest difference of a pixel, theirs and ours: {gap:.0e}")
known = [timm.get_pretrained_cfg(name) for name in WITH]
usual = sum(tuple(one.mean) == (0.485, 0.456, 0.406) for one in known)
sizes = sorted({one.input_size[-1] for one in known})
mean_guess.compare(f"{usual / len(known):.0%}")
tl.claim("many weights want other numbers", usual / len(known) < 0.8)
print(f"image sizes from {sizes[0]} to {sizes[-1]} pixels")

# %% [markdown]
# So the usual numbers are a guess that fails for many networks, the ViT above among them. 3.4 measured what leaving out normalisation costs.
#
# ### Your turn: the right transform
#
# Write a function of a name that returns the evaluation transform that the default weights of this network want, at timm's
# default size, that of training. It takes a PIL image. Don't download the weights. (With `use_test_size=True`,
# `resolve_model_data_config` gives, for some weights, a larger size, that of their published accuracy. The table below uses
# that one.)
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(name):
#     network = timm.create_model(name)  # random weights
#     config = timm.data.resolve_model_data_config(network)
#     return timm.data.create_transform(**config)
# ```
# </details>

# %%
answer = ...  # a function: def answer(name): ...
tl.check("3.5/transform", answer)

# %% [markdown]
# ## The trap: a new head, and an old optimizer
#
# `reset_classifier` replaces the head of a network that you have. You freeze the backbone, build the optimizer, and then
# remember that you need a new head. `tl.models.replace_head` does this for both libraries.


# %% tags=["nbval-ignore-output"]
def usual_loop(model, loaders, optimizer, epochs, device):
    """Train; return the accuracy, and whether the head moved."""
    head = tl.models.head(model)
    before = head.weight.detach().clone()
    for _ in range(epochs):
        tl.models.train_mode(model)
        for images, labels in loaders.train:
            scores = model(images.to(device))
            loss = torch.nn.functional.cross_entropy(
                scores, labels.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    moved = not head.weight.equal(before)
    return tl.train.evaluate(model, loaders.val).accuracy, moved


# %% tags=["nbval-ignore-output"]
few = pets.take(train=100, val=100, seed=runtime.seed)
loaders = few.loaders(16, seed=runtime.seed)
reports, reached, moved = {}, {}, {}
for order in ("optimizer, then head", "head, then optimizer"):
    torch.manual_seed(runtime.seed)
    model = tl.models.create(BACKBONE, 5, weights=WEIGHTS)  # 5: a mistake
    tl.models.freeze(model)
    for step in order.split(", then "):
        if step == "head":
            model = tl.models.replace_head(model, len(pets.classes))
            model.to(runtime.device)
        else:
            head = tl.models.head(model)
            optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    tl.models.train_mode(model)
    reports[order] = tl.examine(model, optimizer)
    reached[order], moved[order] = usual_loop(
        model, loaders, optimizer, 5, runtime.device
    )
    print(f"{order}: validation accuracy {reached[order]:.2f}")

# %% tags=["nbval-ignore-output"]
wrong, repaired = reports.values()
learns = list(moved.values()) == [False, True]
tl.claim("only after the repair does the head change", learns)
tl.claim(
    "the doctor finds the forgotten head, and nothing after the repair",
    bool(wrong.named("not-in-optimizer")) and not repaired.findings,
)
wrong

# %% [markdown]
# Losses and gradients were computed, and no weight of the new head changed: the optimizer holds the old one. The accuracies
# are those of one run each. `tl.train.fit` refuses to start. In a loop of your own, build the optimizer last.
#
# ## Drop path
#
# A residual block computes $x + f(x)$. **Drop path**, or stochastic depth, leaves out $f(x)$ for some images of a batch
# while training, each with probability $p$, and makes up for it in the others:
#
# $$y = x + \frac{b}{1 - p} f(x)$$
#
# $b$ is zero with probability $p$, and otherwise one. In timm, `drop_path_rate` is the $p$ of the last block; it falls to
# zero in the first, which then has no `DropPath` and is missing from the list below.

# %%
from torch import nn


class DropPath(nn.Module):
    """Leave out a block's output for some images of a batch."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, out):
        if not self.training:
            return out
        b = out.new_empty(len(out), 1, 1, 1).bernoulli_(1 - self.p)
        return out * b / (1 - self.p)


outputs = torch.randn(6, 8, 4, 4)
same = []
for drop in (DropPath(0.3), timm.layers.DropPath(0.3)):
    torch.manual_seed(0)
    same.append(drop(outputs))
print("timm's does the same:", torch.allclose(*same))
net = timm.create_model("tl_resnet", drop_path_rate=0.3)
print(*[m for m in net.modules() if isinstance(m, timm.layers.DropPath)])

# %% [markdown]
# Huang and others introduced it for very deep networks. Here you compare three rates of drop path, in fine-tuning with few images. The
# learning rate of each was chosen among three on the validation set, with other seeds. It was the highest of the three without drop
# path and for the higher rate of drop path, the lowest for the lower one; beyond these, better rates may exist. (3.3 chose the middle one
# for the same training without drop path, with fewer images and seeds: such choices are noisy.) So the first and the last differ in drop path alone,
# the middle one also in its learning rate. All dots are stored runs; in `mini`, the diamond is a run that your machine makes now.

# %%
drop_guess = tl.guess(
    "A hundred training images: what does drop path at 0.4 do to the "
    "validation accuracy?",
    ["it rises", "no difference that can be shown", "it falls"],
)

# %% tags=["nbval-ignore-output"]
stored = tl.experiments.stored("drop_path")
home = stored.only(data="toypets")
seen = stored.only(data="training images")
gains, live = {}, None
for rate in ("drop path 0.2", "drop path 0.4"):
    gains[rate] = home.difference(rate, "drop path 0.0")
    print(f"{rate} minus none: {gains[rate]}")
drop_guess.compare(gains["drop path 0.4"])
right = min(row["accuracy"] for row in seen.table())
print(f"training images right, mean of each way: {right:.1%} or more")
if MINI:
    toys = tl.data.load("toypets", model=tl.models.create("tl_resnet"))
    start = tl.experiments.DropPath(0.4)
    way = tl.experiments.Trained(lr=0.003, passes=15, start=start)
    live = tl.experiments.compare(
        {"drop path 0.4": way}, toys, sizes=[100], seeds=runtime.seeds(1)
    )

# %% tags=["nbval-ignore-output"]
title = "Drop path at 0.4 costs accuracy in this short training"
home.plot(live=live, title=title)
high = gains["drop path 0.4"]
lower = high.mean < -high.margin
tl.claim("in the stored runs, drop path at 0.4 costs accuracy", lower)
if MINI:
    agree = live.agree_with(stored)
    tl.claim("this run lies where 99 of 100 such runs would", agree)

# %% [markdown]
# At the higher rate of drop path, accuracy is lost. At the lower one, with its lower learning rate, these runs show no difference; a
# gain or loss within the printed interval would be missed. This network has few blocks and this training is short, but these runs
# can't say whether that is the reason. All three get nearly every training image right, so drop path did not close the gap to
# the validation accuracy.
#
# ## Six networks, one fair table
#
# **From the chapter.** Example 8 compares six networks. It gives the memory as parameters times four bytes. That is the
# weights alone: 3.4 measured what training holds. A fairer table: each
# network at the image size of its published accuracy, the same batch and device for all, in turns, after a warm-up, and
# accuracies from one source. `spread` is the range of the middle half of the times; `least` is the quickest call.

# %%
time_guess = tl.guess(
    "Which of the six takes the least time for one image, here?",
    ["efficientnet_b0", "resnet50", "vit_small_patch16_224", "another"],
)

# %% tags=["nbval-ignore-output"]
NAMES = ["resnet50", "efficientnet_b0", "efficientnetv2_rw_s"]
NAMES += ["convnext_tiny", "vit_small_patch16_224"]
NAMES += ["swin_tiny_patch4_window7_224"]
networks = {
    name: timm.create_model(name).to(runtime.device) for name in NAMES
}
tags = {name: timm.get_pretrained_cfg(name).tag for name in NAMES}
weights = {name: published[f"{name}.{tag}"] for name, tag in tags.items()}
sizes = {name: row["image size"] for name, row in weights.items()}
costs = tl.cost.measure(
    networks, sizes, batch_size=2 if MINI else 64, repeats=5 if MINI else 50
)
for row in costs:
    name = row["model"]
    row |= {"published (%)": weights[name]["top-1"], "tag": tags[name]}
print("threads:", torch.get_num_threads(), "device:", runtime.device)
costs

# %% tags=["nbval-ignore-output"]
measured = {
    row["model"].split("_patch")[0]: (
        row["least (ms)"],
        row["published (%)"],
    )
    for row in costs
}
best = tl.cost.front(measured)
time_guess.compare(best[0])
tl.plots.tradeoff(
    measured,
    best[:1],
    named=list(measured),
    xlabel="milliseconds for one image, quickest call",
    ylabel="published accuracy on ImageNet, in %",
    title=f"{best[0]} takes the least time of the six",
)

# %% [markdown]
# Two things are still not fair. The weights come from different recipes, which differed by points for one architecture above.
# Some have seen more than ImageNet's usual training images: read the tags. And times are uncertain: networks whose times differ by
# less than their spread can change places. Those with nearly the same multiply-adds can take quite different times: compare ViT
# and Swin in your table.
#
# ## Your own images
#
# Set `NAME` to one of timm's names: most work. Write `timm/` before a name that torchvision has too, as in `timm/resnet50`. Set `FOLDER` to a folder with one subfolder per class. The test set is read
# once, here.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"
NAME = BACKBONE  # or another name of timm's
chosen = tl.models.create(NAME, 2, weights=WEIGHTS)
place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=chosen)
model = tl.models.replace_head(chosen, len(mine.classes))
result = tl.recipes.linear_probe(model.to(runtime.device), mine)
print(f"validation: {result.val}\ntest, once: {result.test}")

file = Path("runs") / "my-network.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
first = mine.test.sources[0]
found = tl.predict.predict_files(loaded, about["classes"], [first])[0]
truth = mine.classes[mine.test.labels[0]]
print(f"{first.name}: truth {truth}, answer {found.label}")

# %% [markdown]
# ## Take-away
#
# - Write down architecture and tag, and take the preprocessing from the weights: many don't want ImageNet's mean and deviation.
# - `num_classes`, `features_only`, `forward_features` and `forward_head` are the same for all; the shapes are not.
# - Build the optimizer last, and let the doctor look.
# - Compare networks at the size of their published accuracy, and read their tags.
# - A high rate of drop path cost accuracy in a short training.
#
# <details><summary>You fine-tune the same ResNet from timm and from torchvision, and get different accuracies. Why?</summary>
#
# The default weights come from different recipes, and their preprocessing differs. Compare the tags first.
# </details>
#
# <details><summary>A linear layer on <code>forward_features</code> fails for a ResNet, and gives many rows per image for a ViT. What is missing?</summary>
#
# The step to one row for each image. Use `forward_head(features, pre_logits=True)`, or `num_classes=0`.
# </details>
#
# <details><summary>You add drop path and the training accuracy falls. Is that bad?</summary>
#
# Not by itself: it makes training harder on purpose. Look at the validation accuracy, with several seeds.
# </details>
#
# **Read on:** [timm's documentation](https://huggingface.co/docs/timm);
# [Wightman and others](https://arxiv.org/abs/2110.00476), *ResNet strikes back*, on recipes of training;
# [Huang and others](https://arxiv.org/abs/1603.09382), *Deep networks with stochastic depth*. Next: 3.6, a project.
