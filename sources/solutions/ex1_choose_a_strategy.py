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
# # Exercise 1: choose a strategy
#
# Three people bring images: forty radiographs, eighty tiles of land, a hundred and sixty images of metal surfaces. Do you compute features
# once, train the last stage, or train everything? You give each strategy the same budget of compute, measure, and decide
# by a rule that you write down first.
#
# **Difficulty:** medium. **Time:** about 35 minutes, and one minute to run. **Builds on** 3.1 and 3.3.
#
# **It trains you to** compare strategies at the same cost, to conclude from an interval and not from two means, and to take the cheaper one
# when nothing else is shown.
#
# Each step ends with a check. It looks at what your code does, so spell it as you like. `tl.hint("ex1/trains")` gives
# a hint, a stronger one each time; `tl.solution("ex1/trains")` shows one answer. Unanswered steps say *not yet*.

# %%
LIMITS = {"radiographs": 40, "landuse": 80, "surfaces": 160}
backbone = tl.models.create("tl_resnet")
scenes = {n: tl.data.load(n, model=backbone) for n in LIMITS}
firsts, names = [], []
for name, scene in scenes.items():
    for label, kind in list(enumerate(scene.classes))[:3]:
        position = scene.train.labels.tolist().index(label)
        firsts.append(scene.train.raw(position))
        names.append(f"{name}:\n{kind}")
tl.plots.images(
    firsts,
    names,
    columns=4,
    title="Three tasks: X-rays, land from above, surfaces of metal",
)

# %% [markdown]
# **From the chapter.** For few X-rays it advises features, for many images of products fine-tuning in stages, for some
# satellite tiles to unfreeze the last block. These are opinions: no run stands behind them. The numbers of images are smaller here, so that a laptop
# can check the rule behind them: few images, few parameters.

# %%
guess = tl.guess(
    "Everything costs the same compute. For how many of the three is "
    "training everything clearly better than features computed once?",
    ["none", "one", "two", "all three"],
)

# %% [markdown]
# ## Step 1: what trains
#
# Write a function of `tl_resnet` and a strategy. It lets exactly those parameters take gradients that train: with
# `"features"` the head `fc`, with `"last stage"` also `layer4`, with `"everything"` all of them. The network may arrive in any state.


# %%
def set_trainable(model, strategy):
    """Let those parameters take gradients that a strategy trains."""
    ### BEGIN SOLUTION
    model.requires_grad_(strategy == "everything")
    model.fc.requires_grad_(True)
    if strategy == "last stage":
        model.layer4.requires_grad_(True)
    ### END SOLUTION


trains = tl.check("ex1/trains", set_trainable)
trains

# %% [markdown]
# ## Step 2: the same budget
#
# The unit of cost is one forward pass of one image. The backward pass costs about twice as much as the forward pass of the part that it
# goes through, and it stops below the lowest layer that trains. This cell measures which share of the multiply-adds that
# part has.

# %%
import torch
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter, torch.no_grad():
    backbone.eval()(torch.zeros(1, 3, 64, 64))
work = {k: sum(v.values()) for k, v in counter.get_flop_counts().items()}
SHARES = {"last stage": work["TLResNet.layer4"] / work["Global"]}
SHARES["everything"] = 1.0
print({name: round(share, 2) for name, share in SHARES.items()})

# %% [markdown]
# Write a function of a budget in forward passes, the number of training images and such a share. It returns how many whole
# passes over the images, each with its backward pass, the budget allows.


# %%
def passes(budget, images, share):
    """Return how many whole passes over the images a budget allows."""
    ### BEGIN SOLUTION
    return int(budget / (images * (1 + 2 * share)))
    ### END SOLUTION


verdict = tl.check("ex1/passes", passes)
verdict

# %%
BUDGET = 1920
if verdict.outcome == "right":
    for name, images in LIMITS.items():
        counts = {
            way: passes(BUDGET, images, s) for way, s in SHARES.items()
        }
        print(f"{name}, {images} images: passes {counts}")

# %% [markdown]
# Features cost one forward pass for each image, far below the budget.
#
# ## Step 3: the rule
#
# Decide how you'll decide before you see a result. The order from cheap to dear is features, last stage, everything. A
# strategy is **clearly better** than another if the interval of their paired difference leaves out zero, and the mean is above it.
# Choose the cheapest strategy that no dearer one clearly beats.

# %%
ORDER = ["features", "last stage", "everything"]


def decide(runs):
    """Return the cheapest strategy that no dearer one clearly beats."""
    ### BEGIN SOLUTION
    for i, way in enumerate(ORDER):
        gains = [runs.difference(dearer, way) for dearer in ORDER[i + 1 :]]
        if not any(gain.clear and gain.mean > 0 for gain in gains):
            return way
    ### END SOLUTION


tl.check("ex1/decide", decide)

# %% [markdown]
# ## Step 4: runs of your own
#
# Runs of all three scenarios, with five seeds each, are stored in the package, because they take minutes. The learning rate of each strategy
# was chosen among three, on the validation set, with other seeds. Before you trust them, repeat a part: the radiographs, with two
# seeds. `Trained` trains with your function, at the stored rates.

# %%
stored = tl.experiments.stored("strategies")
about = stored.about["radiographs"]
print(about["date"], about["machine"], *about["ways"].values(), sep="\n")

# %%
import re


def last_stage_alone(model, splits):
    """Train the last stage and the head."""
    set_trainable(model, "last stage")


settings = {
    way: re.search(r"lr=([\d.e-]+), passes=(\d+)", about["ways"][way])
    for way in ORDER[1:]
}
ways = {"features": tl.experiments.Probe(backbone)}
for way, start in (("last stage", last_stage_alone), ("everything", None)):
    rate, count = settings[way].groups()
    ways[way] = tl.experiments.Trained(
        lr=float(rate), passes=int(count), start=start
    )
radiographs = scenes["radiographs"]

# %% [markdown]
# Compare the three `ways` with `tl.experiments.compare`: on `radiographs`, with `40` images and the seeds `runtime.seeds(2)`.
# It runs for about half a minute.

# %% tags=["nbval-ignore-output"]
answer = ...  # the runs
### BEGIN SOLUTION
answer = tl.experiments.compare(
    ways, radiographs, sizes=[40], seeds=runtime.seeds(2)
)
### END SOLUTION
live = tl.check("ex1/agree", answer)
live

# %% [markdown]
# ## Step 5: decide
#
# These are the stored differences. A row whose line leaves out zero is clear.

# %%
found = {}
for name in LIMITS:
    for way in ORDER[1:]:
        of = stored.only(data=name)
        found[f"{name}: {way}"] = of.difference(way, "features")
clear = [
    one.clear and one.mean > 0
    for name, one in found.items()
    if name.endswith("everything")
]
guess.compare(f"{sum(clear)} of {len(clear)}")
tl.experiments.plot_differences(
    found, title="What training gains over features, at the same cost"
)

# %% [markdown]
# What do you choose for each scenario? The answer is a dictionary from the name of the scenario to the name of the strategy.

# %%
answer = ...  # {"radiographs": ..., "landuse": ..., "surfaces": ...}
### BEGIN SOLUTION
answer = {name: decide(stored.only(data=name)) for name in LIMITS}
### END SOLUTION
tl.check("ex1/scenarios", answer)

# %% [markdown]
# Five seeds show differences as large as the intervals, no smaller ones. Other budgets, rates and numbers of images may give another
# answer: what you take home is the rule and the measurement, not the table.
#
# ## What you take with you
#
# - Compare strategies at the same cost, each with a learning rate chosen for it.
# - Write down the rule before you see the result.
# - A tie goes to the cheaper strategy, and a tie is what these runs can't tell apart.
# - Repeat a part of other people's runs before you build on them.
#
# `tl.progress(reset="ex1")` forgets what you did here, to start again.

# %%
tl.progress("ex1")
