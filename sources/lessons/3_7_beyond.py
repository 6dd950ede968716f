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
# # 3.7 Beyond the chapter
#
# The chapter knows two ways: train the head, or train more. Since then, many more have been proposed. This lesson tries
# some of them on one task, with the cost beside the gain, and ends with those that did not help.
#
# **You will be able to** fit a network to a new style of images without labels, choose a layer without training, train a small
# part of a network with adapters, and say how small a gain your runs could have shown.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 3.2 and 3.3.

# %%
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 100 or more
MINI = runtime.profile == "mini"
STYLES = ("toypets-cartoon", "toypets-line", "toypets-silhouette")

backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS).to(runtime.device)
pets = tl.data.load(DATA, model=backbone, train=LIMIT)
away = tuple(tl.data.load(s, model=backbone).plain() for s in STYLES)
tl.plots.images(
    [part.train.raw(i) for i in (0, -1) for part in (pets, *away)],
    [part.name for i in (0, -1) for part in (pets, *away)],
    columns=4,
    title="Trained on the left column, then used on the others",
)

# %% [markdown]
# ## New statistics from images without labels
#
# You fine-tune on the images on the left, and then your users send other styles. You have no labels for
# these, but you do have images. Batch norm computes
#
# $$y = \gamma\,\frac{x - \mu}{\sigma} + \beta$$
#
# for each channel $x$, with a learned scale $\gamma$ and shift $\beta$. The mean $\mu$ and deviation $\sigma$ come from
# training images. **AdaBN** ([Li and others](https://arxiv.org/abs/1603.04779)) replaces both by those of the new images,
# and keeps every weight.

# %%
guess = tl.guess(
    "Fine-tune, then give the batch norms the statistics of an unseen "
    "style. What happens to the accuracy on that style?",
    ["it falls", "no difference", "it rises"],
)

# %%
import copy

import torch
from torch import nn


def new_statistics(model, images, device):
    """Return a copy whose batch norms describe these images."""
    model = copy.deepcopy(model)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
    model.train()  # labels are not used, and no weight changes
    loader = torch.utils.data.DataLoader(images, 60, shuffle=True)
    with torch.no_grad():
        for batch, _ in loader:
            model(batch.to(device))
    return model.eval()


# %% [markdown]
# In 3.3 you saw two ways to fine-tune: statistics that move with the training images, and statistics that are kept from
# pre-training. Give both new statistics. They come from one part of the images of each style, and the accuracy is
# measured on the others. At home means: on images like those of training. The rates were tuned in 3.3, with other
# seeds. Dots are stored runs, diamonds are a run that your machine makes now.


# %% tags=["nbval-ignore-output"]
def keep_statistics(model, splits):
    """Freeze the batch norms, which keeps their statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)


Trained, Twice = tl.experiments.Trained, tl.experiments.WithNewStatistics
same = {"passes": 15, "weights": WEIGHTS, "model": BACKBONE}
moving = Twice(Trained(lr=0.001, **same), away)
kept = Twice(Trained(lr=0.0003, start=keep_statistics, **same), away)
ways = {"fine-tuned": moving} | ({} if MINI else {"statistics kept": kept})
seeds = runtime.seeds(1 if MINI else 5)
live = tl.experiments.compare(ways, pets, sizes=[100], seeds=seeds)
stored = tl.experiments.stored("new_statistics") if MINI else live

# %% tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt

HOME, AWAY, NEW = pets.name, "unseen styles", ", new statistics"


def change(runs, way, place):
    """Return what new statistics change, seed by seed."""
    after = runs.only(data=place + NEW).accuracies(way)
    before = runs.only(data=place).accuracies(way)
    return [after[seed] - before[seed] for seed in before]


def draw(found, title, live=None):
    """Draw each difference: a dot for each seed, mean and interval."""
    size = (6.4, 0.4 * len(found) + 1.1)
    figure, ax = plt.subplots(figsize=size, layout="constrained", dpi=110)
    for i, (name, one) in enumerate(found.items()):
        ax.plot(one.values, [i] * len(one.values), "o", color="0.7", ms=4)
        ax.errorbar(one.mean, i, xerr=one.margin, color="black", capsize=4)
        ax.plot(one.mean, i, "|", color="black", ms=14)
        now = (live or {}).get(name, [])
        ax.plot(now, [i] * len(now), "D", color="black", mfc="white")
    ax.axvline(0, color="0.5", lw=0.8)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="difference of accuracy")
    ax.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)


# %% tags=["nbval-ignore-output"]
LABELS = {"fine-tuned": "moved", "statistics kept": "kept"}
found, now = {}, {}
for way, label in LABELS.items():
    for place, where in ((AWAY, AWAY), (HOME, "at home")):
        name = f"statistics {label}, {where}"
        found[name] = tl.experiments.Difference(
            tuple(change(stored, way, place))
        )
        if way in ways:
            now[name] = change(live, way, place)
draw(found, "New statistics: TODO", live=now)
for name, one in found.items():
    print(f"{name:31} {one}")
gain, _, _, loss = found.values()
guess.compare(f"moved statistics {gain.mean:+.3f}, kept {loss.mean:+.3f}")
if MINI:
    agree = live.agree_with(stored)
    tl.claim("the run of this machine agrees with the stored ones", agree)

# %% [markdown]
# TODO mechanism.
#
# ## Which layer, without training
#
# A probe needs training, a penalty to choose, and images to validate on. **LogME** ([You and
# others](https://arxiv.org/abs/2102.11005)) gives a number for the features $F$ and labels $y$ of the training images
# alone: the log of the evidence $p(y \mid F)$, if $y = Fw$ plus noise, averaged over all weights $w$. The spread of weights,
# $1/\alpha$, and of the noise, $1/\beta$, are those that make the evidence largest. One decomposition and a few
# rounds find them.

# %%
import math


def logme(x, y, rounds=30):
    """Return the log evidence per image of features x for classes y."""
    u, s, _ = torch.linalg.svd(x.double(), full_matrices=False)
    targets = nn.functional.one_hot(y).double()
    seen, s2 = u.T @ targets, s[:, None] ** 2
    unseen = (targets**2).sum(0) - (seen**2).sum(0)
    ratio = torch.ones(1)  # of alpha to beta, for each class
    for _ in range(rounds):
        shrink = ratio / (s2 + ratio)
        used = (1 - shrink).sum(0)  # directions that the images decide
        size = (s2 * (seen / (s2 + ratio)) ** 2).sum(0)  # of the weights
        error = unseen + ((shrink * seen) ** 2).sum(0)
        alpha, beta = used / size, (len(y) - used) / error
        ratio = alpha / beta
    noise = len(y) * (beta.log() - 1 - math.log(2 * math.pi))
    evidence = noise + (ratio / (s2 + ratio)).log().sum(0)
    return (evidence / 2 / len(y)).mean().item()


# %%
guess = tl.guess(
    "Five image sets, five stages each. In how many does LogME pick "
    "a stage that is clearly worse than the best one?",
    ["in none", "in one or two", "in three or more"],
)

# %% tags=["nbval-ignore-output"]
import time
from collections import Counter

SETS = ("toypets", "landuse", "surfaces", "radiographs", "digits")
probed, picks, seconds = {}, {}, 0.0
for name in SETS:
    part = tl.data.load(name, model=backbone, train=300)
    by_stage = tl.features.stage_features(backbone, part.plain().train)
    picks[name], start = [], time.perf_counter()
    for i in range(3):  # three times, each with other images
        score = {
            k: logme(f.x[i::3], f.y[i::3]) for k, f in by_stage.items()
        }
        picks[name].append(max(score, key=score.get))
    seconds += (time.perf_counter() - start) / 3 / len(score) / len(SETS)
    if MINI:
        probed[name] = tl.experiments.stored("stages").only(data=name)
    else:
        ways = {k: tl.experiments.Probe(backbone, k) for k in by_stage}
        probed[name] = tl.experiments.compare(
            ways, part, sizes=[100], seeds=runtime.seeds(5)
        )

# %% tags=["nbval-ignore-output"]
figure, ax = plt.subplots(figsize=(6.4, 3.0), layout="constrained", dpi=110)
lost, behind = {}, {}
for i, (name, runs) in enumerate(probed.items()):
    mean = {row["way"]: row["accuracy"] for row in runs.table()}
    best, last = max(mean, key=mean.get), list(mean)[-1]
    pick = Counter(picks[name]).most_common(1)[0][0]
    ax.plot(mean.values(), [i] * len(mean), "o", color="0.75")
    ax.plot(mean[best], i, "o", color="black")
    ax.plot(mean[pick], i, "o", ms=13, mfc="none", color="#CC79A7", mew=2)
    ax.text(mean[best], i - 0.3, best, ha="center", fontsize=8)
    lost[name] = runs.difference(pick, best)
    behind[name] = runs.difference(last, best)
    print(f"{name:11} picks {', '.join(picks[name])}; best {best}")
    print(f"{'':11} pick minus best {lost[name]}")
ax.set_yticks(range(len(probed)), list(probed))
ax.set(ylim=(len(probed) - 0.5, -0.7), xlabel="validation accuracy")
title = "Each dot is a stage; black: the best; ring: LogME's pick"
figure.suptitle(title, x=0.01, ha="left", fontsize=11)

# %% tags=["nbval-ignore-output"]
clear = [name for name, one in lost.items() if one.clear]
guess.compare(
    f"clearly worse in {len(clear)}: {', '.join(clear) or 'none'}"
)
for kind, each in (("LogME's pick", lost), ("the last stage", behind)):
    mean = sum(one.mean for one in each.values()) / len(each)
    print(f"{kind:14} loses on average {-mean:.3f}")
fit = [row["seconds"] for runs in probed.values() for row in runs.table()]
fit = sorted(fit)[len(fit) // 2]
print(f"{1000 * seconds:.0f} ms for LogME, {1000 * fit:.0f} ms for a probe")

# %% [markdown]
# TODO what it says.
#
# ## Adapters: train a small part
#
# **LoRA** ([Hu and others](https://arxiv.org/abs/2106.09685)) freezes a weight $W$ of $m$ rows and $n$ columns, and learns a change
# of low rank:
#
# $$W + BA$$
#
# $B$ has $m$ rows and $r$ columns, $A$ has $r$ rows and $n$ columns, and the **rank** $r$ is small. $B$ starts at zero,
# so the network starts as it was. A convolution's weight is a matrix, too: a row for each output channel. After
# training, the change is added to the weight, and the network is as large and as fast as before.

# %%
from dataclasses import dataclass

from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """A weight with a change of low rank."""

    def __init__(self, weight, rank):
        super().__init__()
        rows, columns = weight.flatten(1).shape
        a = torch.randn(rank, columns, device=weight.device)
        self.a = nn.Parameter(a / columns**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight):
        """Return the changed weight."""
        return weight + (self.b @ self.a).view_as(weight)


def add_adapters(model, rank):
    """Freeze a model, and give each convolution a change that trains."""
    model.requires_grad_(False)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        change = LowRank(conv.weight, rank)
        parametrize.register_parametrization(conv, "weight", change)


# %% [markdown]
# PyTorch's `parametrize` calls `LowRank` wherever the layer's weight is used. A smaller part still: the batch norms alone,
# with the head.


# %% tags=["nbval-ignore-output"]
@dataclass(frozen=True)
class Adapters:
    """How a run starts: a change of each convolution, and a new head."""

    rank: int
    head: bool = True

    def __call__(self, model, splits):
        add_adapters(model, self.rank)
        tl.models.head(model).requires_grad_(self.head)


def norms_only(model, splits):
    """Train the scale and shift of each batch norm, and the head."""
    for module in model.modules():
        module.requires_grad_(isinstance(module, nn.BatchNorm2d))
    tl.models.head(model).requires_grad_(True)


def head_alone(model, splits):
    """Train the head."""
    tl.models.freeze(model)


# %%
guess = tl.guess(
    "Changes of rank 4 train about one parameter in forty. "
    "How near do they come to training all?",
    ["no better than the head alone", "half of the way", "all of the way"],
)

# %% tags=["nbval-ignore-output"]
STARTS = {
    "batch norms": norms_only,
    "rank 1": Adapters(1),
    "rank 4": Adapters(4),
    "fine-tuned": None,
}
RATES = {"batch norms": 0.01, "rank 1": 0.003, "rank 4": 0.003}
trained = {"frozen": tl.models.count(tl.models.head(backbone).parameters())}
models, ways = {}, {"frozen": tl.experiments.Probe(backbone)}
for way, start in STARTS.items():
    ways[way] = Trained(lr=RATES.get(way, 0.001), start=start, **same)
    model = tl.models.create(BACKBONE, 2, weights=WEIGHTS)
    models[way] = model.to(runtime.device)
    if start:
        start(model, pets)
    part = [p for p in model.parameters() if p.requires_grad]
    trained[way] = tl.models.count(part)

# %% tags=["nbval-ignore-output"]
ways = {"rank 4": ways["rank 4"]} if MINI else ways
live = tl.experiments.compare(ways, pets, sizes=[100], seeds=seeds)
tuned = tl.experiments.stored("fine_tuning").only(data=HOME)
adapted = tl.experiments.stored("adapters")
runs = adapted + tuned if MINI else live
figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained", dpi=110)
for i, (way, n) in enumerate(trained.items()):
    shade = tl.plots.COLOURS.get(way, tl.plots.OTHERS[-1])
    values = list(runs.accuracies(way).values())
    ax.plot([n] * len(values), values, "o", color=shade, alpha=0.35, mew=0)
    mean = sum(values) / len(values)
    ax.plot(n, mean, "_", color=shade, ms=22, mew=2.5)
    name = "head alone" if way == "frozen" else way
    ax.text(n, max(values) + 0.008, name, ha="center", color=shade)
    again = live.by_size().get(way, {}).get(100, []) if MINI else []
    ax.plot([n] * len(again), again, "D", color=shade, mfc="white", ms=7)
ax.set(xscale="log", xlabel="trained parameters (log scale)")
ax.set(ylabel="validation accuracy", xlim=(200, 1e7))
figure.suptitle("TODO", x=0.01, ha="left", fontsize=11)

# %% tags=["nbval-ignore-output"]
for way in trained:
    share = trained[way] / tl.models.count(backbone.parameters())
    print(
        f"{way:12} {trained[way]:>9,} trained, {share:.2%} of the backbone"
    )
for way in ("batch norms", "rank 1", "rank 4"):
    print(f"{way:11} minus all {runs.difference(way, 'fine-tuned')}")
    print(f"{'':11} minus head {runs.difference(way, 'frozen')}")
if MINI:
    agree = live.agree_with(adapted)
    tl.claim("the adapter run of this machine agrees", agree)

# %% [markdown]
# TODO
#
# **From the chapter.** Its table says that feature extraction is fast because fewer parameters train, and low in memory because
# no gradients are computed. Does it follow that adapters, which train few parameters, are fast and low in memory?

# %%
guess = tl.guess(
    "Compared with training all layers: how much of the memory "
    "does a training step with adapters of rank 4 take?",
    ["a tenth", "a third", "nearly all, or more"],
)


# %% tags=["nbval-ignore-output"]
def step_cost(model, images, labels):
    """Return what a training step keeps in MB, and its seconds."""
    kept, start = {}, time.perf_counter()

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    tl.models.train_mode(model)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = nn.functional.cross_entropy(model(images), labels)
    weights = {p.data_ptr() for p in model.parameters()}
    activations = sum(kept[k] for k in kept.keys() - weights)
    loss.backward()
    seconds = time.perf_counter() - start
    gradients = [p for p in model.parameters() if p.grad is not None]
    return activations / 1e6, 12 * tl.models.count(gradients) / 1e6, seconds


# %% tags=["nbval-ignore-output"]
models["frozen"] = tl.models.freeze(copy.deepcopy(backbone))
batch = next(iter(pets.plain().loaders(16).train))
batch = [part.to(runtime.device) for part in batch]
memory = {}
for way in trained:
    costs = [step_cost(models[way], *batch) for _ in range(6)]
    activations, optimizer = costs[-1][:2]
    memory[way] = activations + optimizer
    fastest = min(cost[2] for cost in costs)
    print(
        f"{way:12} activations {activations:6.1f} MB, gradients and "
        f"AdamW {optimizer:5.1f} MB, {1000 * fastest:4.0f} ms a step"
    )
share = memory["rank 4"] / memory["fine-tuned"]
guess.compare(f"{share:.0%} of it")

# %% [markdown]
# The gradient of an early layer has to pass through all later ones, so their activations are kept, whether their weights
# train or not. What adapters save is the optimizer's part: gradients and two moments for each trained parameter. That
# is small here and large in a language model. And they save space on disk: one small file per task beside one backbone.
#
# ### Your turn
#
# Write a function that says how many values a change of rank `rank` trains for a layer, linear or convolution.

# %%
answer = ...  # a function: def trained_values(layer, rank): ...
tl.check("3.7/low-rank", answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(layer, rank):
#     rows, columns = layer.weight.flatten(1).shape
#     return rank * (rows + columns)
# ```
# </details>
#
# ## The trap: the head that stays random
#
# `add_adapters` freezes all, and then adds changes to convolutions. Many notebooks stop there. Look at what the doctor
# says.

# %%
guess = tl.guess(
    "Adapters train, the new head doesn't. What does it cost?",
    ["the network only guesses", "some points", "nothing that shows"],
)

# %% tags=["nbval-ignore-output"]
model = tl.models.create(BACKBONE, 2, weights=WEIGHTS)
add_adapters(model.to(runtime.device), rank=4)
report = tl.examine(model)
forgotten = report.named("head-frozen")
tl.models.head(model).requires_grad_(True)
tl.claim(
    "the doctor finds the frozen head, and nothing of it after the repair",
    bool(forgotten) and not tl.examine(model).named("head-frozen"),
)
cost = adapted.difference("rank 4, head forgotten", "rank 4")
guess.compare(f"on toy pets, with it minus repaired {cost}")
report

# %% [markdown]
# TODO
#
# ## A backbone that has seen no labels
#
# **Self-supervised** training makes its own task from images alone. DINOv2 ([Oquab and
# others](https://arxiv.org/abs/2304.07193)) learns to give two crops of an image similar features. The probe on top is
# the same as in 3.2. Its weights have to be downloaded, so the cell runs in `full` alone.

# %% tags=["nbval-ignore-output"]
from tlcourse.runtime import OfflineError

OTHER = "vit_small_patch14_dinov2.lvd142m"
PUBLISHED = "ImageNet: probe 81.1 %, neighbours 79.0 % (its README, 2023)"
if MINI:
    print(f"{OTHER}: skipped in mini. Published for {PUBLISHED}")
else:
    try:
        other = tl.models.create(OTHER, 2).to(runtime.device)
        ways = {BACKBONE: backbone, OTHER: other}
        runs = None
        for way, model in ways.items():
            part = pets.for_model(model).take(train=100, val=100)
            probe = {way: tl.experiments.Probe(model)}
            one = tl.experiments.compare(
                probe, part, sizes=[100], seeds=[0]
            )
            runs = one if runs is None else runs + one
        print(runs)
    except OfflineError as reason:
        print(reason)

# %% [markdown]
# ## What did not help here
#
# Five refinements that are often reported to help, each against the same run without it:
#
# - a linear probe as the head before fine-tuning (3.3);
# - **weight-space ensembling** ([WiSE-FT](https://arxiv.org/abs/2109.01903)): go half of the way back from the fine-tuned
#   weights to the start;
# - a **soup** ([Wortsman and others](https://arxiv.org/abs/2203.05482)): the mean of the weights of three runs;
# - **test-time augmentation**: the mean answer for an image and its mirror image;
# - **nearest neighbours** on frozen features instead of a probe.

# %%
guess = tl.guess(
    "How many of the five help clearly, at home or on unseen styles?",
    ["none", "one or two", "three or more"],
)

# %% tags=["nbval-ignore-output"]
tried, start = tl.experiments.stored("refinements"), "as trained"
PAIRS = {
    "half way back": ("half way back", start),
    "soup of three": ("mean of three", start),
    "mirror image": ("mirrored too", start),
}
found = {}
for place in ("toypets", AWAY):
    where = "at home" if place == "toypets" else "unseen"
    first = tl.experiments.stored("fine_tuning").only(data=place)
    found[f"probe first, {where}"] = first.difference(
        "head first", "fine-tuned"
    )
    for name, pair in PAIRS.items():
        one = tried.only(data=place).difference(*pair)
        found[f"{name}, {where}"] = one
at_home = tried.only(data="toypets")
found["neighbours, at home"] = at_home.difference(
    "nearest neighbours", "frozen"
)
draw(found, "TODO")
for name, one in found.items():
    print(f"{name:22} {one.mean:+.3f}, could show {one.margin:.3f}")
helped = [name for name, one in found.items() if one.clear and one.mean > 0]
guess.compare(f"{len(helped)}: {', '.join(helped) or 'none'}")

# %% [markdown]
# TODO
#
# ### Your turn
#
# Write the mean of two state dictionaries, as a soup and WiSE-FT need it. One kind of tensor needs care.

# %%
answer = ...  # a function: def mean_state(first, second): ...
tl.check("3.7/mean", answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(first, second):
#     mean = {}
#     for name, tensor in first.items():  # counters of batches are integers
#         mean[name] = ((tensor + second[name]) / 2).to(tensor.dtype)
#     return mean
# ```
# </details>
#
# ## Your own images
#
# Set `FOLDER` to a folder with one subfolder per class. Adapters train on it, are added to the weights, and the file that is
# saved holds an ordinary network. The test set is read once, here.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"

place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=backbone)
model = tl.models.create(BACKBONE, len(mine.classes), weights=WEIGHTS)
Adapters(4)(model.to(runtime.device), mine)
part = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(part, lr=RATES["rank 4"])
loaders = mine.loaders(16, seed=runtime.seed)
history = tl.train.fit(model, loaders, optimizer, epochs=6)

# %% tags=["nbval-ignore-output"]
for module in model.modules():
    if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(
        module
    ):
        parametrize.remove_parametrizations(module, "weight")
print(f"validation, best epoch: {history.best.val_accuracy:.3f}")
print(f"test, once: {tl.train.evaluate(model, loaders.test)}")
file = Path("runs") / "my-adapted-model.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
image = mine.test.sources[0]
answer = tl.predict.predict_files(loaded, about["classes"], [image])[0]
print(f"{image.name}: {answer.label}, {answer.probability:.2f}")

# %% [markdown]
# ## Take-away
#
# - TODO
