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
# Three tasks, three ways to use a pre-trained network: keep it frozen, train its last stage, or train everything. You give
# each way the same budget of compute, measure all of them, and decide with intervals.
#
# **Difficulty:** medium. **Time:** about 45 minutes, and one minute to run. **Builds on** 3.1 and 3.3.
#
# **It trains you to** compare strategies at the same cost, to decide from paired differences, and to say "no difference
# shown" where that is what the runs show.
#
# Each step ends with a check. It looks at what your code does, so spell it as you like. `tl.hint("ex1/train")` gives
# a hint, a stronger one each time; `tl.solution("ex1/train")` shows one answer. Unanswered steps say *not yet*.

# %% [markdown]
# ## The scenarios
#
# A clinic has few radiographs, with or without an opacity. A mapping office has more tiles of land use, in four classes.
# A factory has the most: surfaces that are clean, or have a scratch, a dent or a stain. The package draws such images. The numbers
# are small, so that everything runs here.

# %%
import torch

SCENARIOS = {"radiographs": 20, "landuse": 40, "surfaces": 80}
backbone = tl.models.create("tl_resnet", 2)
sets = {
    name: tl.data.load(name, model=backbone, val=100) for name in SCENARIOS
}
firsts = [
    (name, labels.index(label))
    for name in sets
    for labels in [sets[name].train.labels.tolist()]
    for label in range(len(sets[name].classes))
]
tl.plots.images(
    [sets[name].train.raw(i) for name, i in firsts],
    [sets[n].classes[sets[n].train.labels[i]] for n, i in firsts],
    title="Chests, land from above and surfaces: one image per class",
)

# %% [markdown]
# **From the chapter.** Its exercise has 500 chest X-rays, 3,000 satellite tiles and 50,000 images of products. Its answers are
# feature extraction for the first, the last block with strong regularisation for the second, and fine-tuning in
# stages for the third. It reasons from the number and kind of images, which is a good start, and shows no runs. You make some.

# %%
guesses = {
    name: tl.guess(
        f"{name}, {images} images: is one way ahead of both others?",
        ["frozen", "last stage", "fine-tuned", "none of them"],
    )
    for name, images in SCENARIOS.items()
}

# %% [markdown]
# ## Step 1: train a part
#
# A way is a tuple of the parts that train. The function goes once through `batches`, with one optimizer that has the rate
# `lr` in every step, lowers the cross-entropy, and changes the model that it is given:
#
# - every parameter of the parts in `trains` moves, and no other;
# - what is frozen takes no gradients, and its batch norms use the statistics that they have, and keep them;
# - the batch norms that train follow the batches.
#
# The model may arrive frozen or not.
#
# **From the chapter.** Its first example freezes with `requires_grad = False`, and the loop of its second calls
# `model.train()`. Neither mentions batch norm. Put together, they leave the weights as they are, and the statistics move.

# %%
BODY = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
WAYS = {
    "frozen": ("fc",),
    "last stage": ("layer4", "fc"),
    "fine-tuned": (*BODY, "fc"),
}


# %%
def train(model, trains, batches, lr):
    """Train the parts named in `trains` on pairs (inputs, labels)."""
    ### BEGIN SOLUTION
    for name, part in model.named_children():
        part.requires_grad_(name in trains)
        part.train(name in trains)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=lr)
    for inputs, labels in batches:
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ### END SOLUTION


tl.check("ex1/train", train)

# %% [markdown]
# ## Step 2: the same compute for each way
#
# The same number of passes over the images is not the same compute. This table counts the multiply-adds of each part, for
# one image on its way forward. The normalisation in `bn1` is not counted: next to a convolution it is small. The budget of a
# run is what training everything costs for `120` images, each used once.

# %%
from torch.utils.flop_counter import FlopCounterMode

with torch.no_grad(), FlopCounterMode(display=False) as counter:
    backbone.eval()(torch.zeros(1, 3, 64, 64))
counted = counter.get_flop_counts()
COST = {
    name: sum(counted.get(f"TLResNet.{name}", {}).values()) // 2
    for name in WAYS["fine-tuned"]
}
BUDGET = 120 * 3 * sum(COST.values())
tl.Table({"part": n, "multiply-adds": f"{COST[n]:,}"} for n in COST)

# %%
guess = tl.guess(
    "For each pass of training everything, how many passes of the last "
    "stage does the same compute pay for?",
    ["about 1", "almost 2", "3 or more"],
)

# %% [markdown]
# Count the cost of one image in one pass like this: the forward pass goes through all parts. The backward pass costs
# twice the forward pass, but of the parts that train only. The function returns how many **whole** passes over `images` images the
# budget pays for. It must not be exceeded.


# %%
def passes(cost, trains, images, budget):
    """Return how many passes the budget allows; `cost` is by part."""
    ### BEGIN SOLUTION
    forward = sum(cost.values())
    backward = 2 * sum(cost[name] for name in trains)
    return budget // (images * (forward + backward))
    ### END SOLUTION


verdict = tl.check("ex1/passes", passes)
verdict

# %%
if verdict.outcome == "right":
    table = tl.Table(
        {"scenario": name, "images": images}
        | {way: passes(COST, WAYS[way], images, BUDGET) for way in WAYS}
        for name, images in SCENARIOS.items()
    )
    print("passes that the budget pays for:", table, sep="\n")
    each = [passes(COST, WAYS[way], 1, 10**6 * BUDGET) for way in WAYS]
    guess.compare(f"{each[1] / each[2]:.2f}")

# %% [markdown]
# The table's `frozen` trains a head in a loop. There is a cheaper way: frozen features never change, so one forward pass per image
# is enough, and a probe is fitted to them. Below, `frozen` means that, and most of its budget is left over.
#
# ## Step 3: a rule to decide
#
# Compare two ways by the difference of their accuracies with the same seed, and its interval (95 %, t distribution). A
# way is **beaten** if the interval of *some other way minus this one* lies above zero. The function returns a list
# of the names in `ways` that no other of them beats, in the order of `ways`: the way that trains least comes first. If two
# of the ways have fewer than five seeds in common, it returns an empty list: there is no decision yet.
#
# `runs` is a table of runs, as in the lessons: `runs.rows` has rows with "way", "seed" and "accuracy", `runs.accuracies(way)`
# gives the accuracy of each seed, and `runs.difference(a, b)` the paired difference.


# %%
def unbeaten(runs, ways):
    """Return the ways that no other one beats, in their order."""
    ### BEGIN SOLUTION
    kept = []
    for way in ways:
        others = [other for other in ways if other != way]
        leads = [runs.difference(other, way) for other in others]
        if any(len(lead.values) < 5 for lead in leads):
            return []
        if not any(lead.clear and lead.mean > 0 for lead in leads):
            kept.append(way)
    return kept
    ### END SOLUTION


tl.check("ex1/unbeaten", unbeaten)

# %% [markdown]
# ## Step 4: measure the radiographs
#
# `learn` is one run: a way, with the images that the seed chooses, within the budget. It measures on validation images; the test
# set is not read. The rate is the same for both ways that train. It was the best of three for each of them, on average over the
# scenarios, with three other seeds.

# %%
RATE = 0.001


def learn(way, splits, images, seed):
    """Learn within the budget; return the result on validation images."""
    torch.manual_seed(seed)
    few = splits.take(train=images, seed=seed)
    model = tl.models.create("tl_resnet", len(splits.classes))
    model.to(runtime.device)
    if way == "frozen":
        few = few.plain()
        known = tl.features.extract(model, few.train)
        probe = tl.features.fit_probe(known, seed=seed)
        return probe.evaluate(tl.features.extract(model, few.val))
    loaders = few.loaders(10, seed=seed)
    count = int(passes(COST, WAYS[way], images, BUDGET))
    batches = (b for _ in range(count) for b in loaders.train)
    batches = ((x, y.to(x.device)) for x, y in batches)
    train(model, WAYS[way], batches, RATE)
    return tl.train.evaluate(model, loaders.val)


# %% [markdown]
# Compare the three ways with `tl.experiments.compare`: on `sets["radiographs"]`, with `20` images and five seeds,
# `runtime.seeds(5)`. Name them as in `WAYS`. It calls each way with `(splits, images, seed)`, so fix the first argument of
# `learn` with `functools.partial`. It runs for about ten seconds.
#
# The answer is a pair: the runs, and the list of the ways that no other beats.

# %% tags=["nbval-ignore-output"]
from functools import partial

measured = ...  # a pair: the runs, and the list of unbeaten ways
### BEGIN SOLUTION
ways = {way: partial(learn, way) for way in WAYS}
runs = tl.experiments.compare(
    ways, sets["radiographs"], sizes=[20], seeds=runtime.seeds(5)
)
measured = runs, unbeaten(runs, list(WAYS))
### END SOLUTION
verdict = tl.check("ex1/radiographs", measured)
verdict

# %% tags=["nbval-ignore-output"]
PAIRS = (
    ("last stage", "frozen"),
    ("fine-tuned", "frozen"),
    ("fine-tuned", "last stage"),
)


def show(runs, name):
    """Print the means, and draw the paired differences."""
    print(runs)
    found = {f"{a} minus {b}": runs.difference(a, b) for a, b in PAIRS}
    count = sum(one.clear for one in found.values())
    tl.experiments.plot_differences(
        found,
        title=f"{name}: {count} of {len(found)} intervals leave out zero",
    )


if verdict.outcome == "right":
    show(measured[0], "radiographs")
    guesses["radiographs"].compare(f"unbeaten: {', '.join(measured[1])}")

# %% [markdown]
# ## Step 5: choose for each scenario
#
# Measure the other two scenarios in the same way, with the numbers in `SCENARIOS`, and add all runs: `Runs` have a `+`. The
# answer is a pair: the runs of all three scenarios, and a dictionary from each scenario to the way that you choose. A choice
# is right if no other way beats it in your runs; where several are unbeaten, each of them is right. `runs.only(data="landuse")`
# has the runs of one scenario.
#
# It runs for about half a minute.

# %% tags=["nbval-ignore-output"]
chosen = ...  # a pair: all runs, and a dictionary: scenario -> way
### BEGIN SOLUTION
runs = measured[0]
for name in ("landuse", "surfaces"):
    runs += tl.experiments.compare(
        ways, sets[name], sizes=[SCENARIOS[name]], seeds=runtime.seeds(5)
    )
choices = {
    name: unbeaten(runs.only(data=name), list(WAYS))[0]
    for name in SCENARIOS
}
chosen = runs, choices
### END SOLUTION
verdict = tl.check("ex1/scenarios", chosen)
verdict

# %% tags=["nbval-ignore-output"]
CHAPTER = {
    "radiographs": "feature extraction",
    "landuse": "the last block, strongly regularised",
    "surfaces": "fine-tuning in stages",
}
if verdict.outcome == "right":
    for name in ("landuse", "surfaces"):
        own = chosen[0].only(data=name)
        show(own, name)
        kept = unbeaten(own, list(WAYS)) or [chosen[1][name]]
        guesses[name].compare(f"{name}, unbeaten: {', '.join(kept)}")
    for name, said in CHAPTER.items():
        print(f"{name}: you choose {chosen[1][name]}; the chapter: {said}")

# %% [markdown]
# What these runs do not show: the chapter's scenarios have many more images, and larger networks, so your runs do not refute
# its answers. Strong regularisation was not tried, nor were stages in turn. One rate serves all scenarios. Three intervals
# per scenario are nine chances to be wrong, and about one 95 % interval in twenty misses the true difference. Where no
# difference is shown, there may still be one, smaller than the margin. For radiographs, guessing is right every other time:
# where all ways are close to that, a tie says that none of them has learned much. And five seeds are few: with others, some
# of your choices may change.
#
# The budget decides, too. The lessons have stored runs on land use in which fine-tuning makes more passes, at a rate chosen
# for this task:

# %%
longer = tl.experiments.stored("map").only(data="landuse")
for images in (20, 80, 320):
    gain = longer.difference("fine-tuned", "frozen", images)
    print(f"{images:3} images: fine-tuned minus frozen {gain}")

# %% [markdown]
# ## What you take with you
#
# - Freeze parameters *and* keep the batch norms still.
# - Give every way the same compute, then compare.
# - Pair the runs by seed, and look at the interval.
# - Where ways are tied, take the one that trains least, or run more seeds.
# - A choice holds for its images, their number and its budget. When one of them changes, measure again.
#
# `tl.progress(reset="ex1")` forgets what you did here, to start again.

# %%
tl.progress("ex1")
