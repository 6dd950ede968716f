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
# # Exercise 5: diagnose failures
#
# Six set-ups train, and each has one fault. Three fail loudly. Three look fine, or look like something else. You find each
# cause with the curves, the doctor and the code, you repair it, and you measure what the repair changed.
#
# **Difficulty:** hard. **Time:** about 60 minutes, and one minute to run. **Builds on** 3.2, 3.3 and 3.3b.
#
# **It trains you to** tell a symptom from its cause, to check what a set-up really does, and to distrust a high validation
# accuracy until you know where it comes from.
#
# Each step ends with a check. It runs what you wrote, so spell it as you like. `tl.hint("ex5/causes")` gives
# a hint, a stronger one each time; `tl.solution("ex5/causes")` shows one answer. Unanswered steps say *not yet*.

# %% [markdown]
# ## Six set-ups
#
# Each case is a function of image sets and a seed. It returns what `tl.train.fit` needs: a network, loaders, an optimizer, and
# a dictionary of options. The docstring says what its author wants. Read the code now. You don't have to spot every fault yet.

# %%
from dataclasses import replace

import numpy as np
import torch

pets = tl.data.load("toypets", model=tl.models.create("tl_resnet", 2))


def case_a(splits, seed):
    """Train the head alone, on 40 images."""
    few = splits.plain().take(train=40, val=40, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=3, momentum=0.9)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 5}


# %%
def case_b(splits, seed):
    """Train the head alone, on 40 images, normalised for the weights."""
    mean, std = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    own = replace(splits.preprocessing, mean=mean, std=std).evaluation()
    few = splits.take(train=40, val=40, seed=seed)
    train, val = (s.with_transform(own) for s in (few.train, few.val))
    loaders = replace(few, train=train, val=val).loaders(16, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    return model, loaders, optimizer, {"epochs": 5}


def case_c(splits, seed):
    """Train on 30 images, there are no more, for a low validation loss."""
    few = splits.plain().take(train=30, val=40, seed=seed)
    model = tl.models.create("tl_resnet", 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 6}


# %%
def case_d(splits, seed):
    """Train the head on three views of each image; validate on others."""
    pool = splits.plain().take(train=30, seed=seed).train
    arrays = [np.asarray(pool.raw(i)) for i in range(30)]
    views = [v for a in arrays for v in (a, a[:, ::-1], a[4:-4, 4:-4])]
    labels = pool.labels.repeat_interleave(3)
    many = tl.data.ImageSet(views, labels, pool.classes, pool.transform)
    order = torch.randperm(90, generator=torch.manual_seed(seed))
    train, val = many.subset(order[20:]), many.subset(order[:20])
    loaders = replace(splits, train=train, val=val).loaders(8, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    return model, loaders, optimizer, {"epochs": 6}


# %%
def case_e(splits, seed):
    """Train the head on the features of pre-trained layers."""
    few = splits.plain().take(train=40, val=40, seed=seed)
    model = tl.models.create("tl_resnet", 2, weights=None)
    model = tl.models.freeze(model)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 5}


def case_f(splits, seed):
    """Train `layer3`, `layer4` and the head; all below stays frozen."""
    few = splits.take(train=40, val=40, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    model.layer4.requires_grad_(True)
    groups = [{"params": model.fc.parameters(), "lr": 0.004}]
    groups += [{"params": model.layer4.parameters(), "lr": 0.001}]
    optimizer = torch.optim.AdamW(groups)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 4}


# %%
doctor_guess = tl.guess(
    "The doctor examines all six after training. "
    "In how many does it find something that it calls wrong?",
    ["all six", "three or four", "one or two"],
)

# %% tags=["nbval-ignore-output"]
cases = {"a": case_a, "b": case_b, "c": case_c}
cases |= {"d": case_d, "e": case_e, "f": case_f}
histories, reports = {}, {}
for name, case in cases.items():
    torch.manual_seed(runtime.seed)
    model, loaders, optimizer, options = case(pets, runtime.seed)
    history = tl.train.fit(model, loaders, optimizer, **options)
    histories[name] = history
    reports[name] = tl.examine(model, optimizer, loaders, history=history)

# %% tags=["nbval-ignore-output"]
TITLE = "Six broken set-ups: some curves look fine, and two look the same"
with tl.plots.new_figure(8, 4.8, title=TITLE, nrows=2, ncols=3) as axes:
    for ax, name in zip(axes.flat, cases, strict=True):
        rows = histories[name]
        epochs, last = rows.column("epoch"), rows.epochs[-1]
        train, val = rows.column("train_loss"), rows.column("val_loss")
        ax.plot(epochs, train, "o-", ms=3, color=tl.plots.GREY)
        ax.plot(epochs, val, "o-", ms=3, color=tl.plots.BLACK)
        ax.axhline(np.log(2), color=tl.plots.GREY, lw=0.8, ls=":")
        accuracies = (
            f"{last.train_accuracy:.2f} and {last.val_accuracy:.2f}"
        )
        ax.set_title(f"{name}: accuracies {accuracies}", color="black")
        ax.set(xlabel="epoch", ylim=(0, 1.2 * max(*train, *val)))
        ax.xaxis.get_major_locator().set_params(integer=True)
        if name == "c":
            look = {"ha": "right", "va": "bottom", "fontsize": 9}
            ax.text(epochs[-1], train[-1] + 0.05, "training", **look)
            ax.text(epochs[-1], val[-1], "validation", **look)
            ax.text(epochs[-1], np.log(2), "guessing", **look)
    axes[0, 0].set_ylabel("loss (nats)")
    axes[1, 0].set_ylabel("loss (nats)")

# %% tags=["nbval-ignore-output"]
wrong = [name for name, report in reports.items() if not report]
doctor_guess.compare(f"{len(wrong)} of {len(reports)}")

# %% [markdown]
# Above each panel are the accuracies of the last epoch, training and then validation. Grey is training, black is validation.
# Guessing gives both classes the same probability: its loss is the logarithm of two. The axes differ.
#
# Now read the doctor's report of each case: change the letter and run the cell again.

# %% tags=["nbval-ignore-output"]
CASE = "a"  # then the other five
reports[CASE]

# %% [markdown]
# ## Step 1: a cause for each case
#
# A symptom is what you see; a cause is a line of the set-up that does something else than its docstring wants. Give each
# case one of these causes. Two of them belong to no case.
#
# | cause | what it means |
# |---|---|
# | `"rate too high"` | each step is so long that the loss grows |
# | `"rate too low"` | the steps are so short that nearly nothing is learned |
# | `"wrong normalisation"` | the images do not arrive as the weights want them |
# | `"learned by heart"` | much trains on few images, for too long |
# | `"shared images"` | validation shows images that are trained on |
# | `"random backbone"` | what is frozen was never pre-trained |
# | `"forgotten layer"` | a layer that should train does not |
# | `"moving statistics"` | the batch norms of frozen layers follow the images |

# %%
answer = ...  # a dictionary: {"a": "...", "b": "...", and so on to "f"}
### BEGIN SOLUTION
answer = {
    "a": "rate too high",
    "b": "wrong normalisation",
    "c": "learned by heart",
    "d": "shared images",
    "e": "random backbone",
    "f": "forgotten layer",
}
### END SOLUTION
tl.check("ex5/causes", answer)

# %% [markdown]
# ## Repair what fails loudly
#
# In each step, write the function anew and repair it. Keep what the docstring wants, and the number of images. Copy the
# case, and change as little as you can. The check calls your function with three other seeds, trains what it returns, and
# measures it on images that it never gets.
#
# **From the chapter.** For diverging losses its exercise lists lower rates, warm-up, clipping, frozen batch-norm statistics and
# mixed precision. The first four can help. Mixed precision computes with fewer digits: it makes training faster, not more
# stable.
#
# ### Step 2: case a
#
# Done means: in no epoch is the training loss more than twice that of guessing, in the last one it is at least a tenth below,
# and the accuracy on new images is above guessing.


# %% tags=["nbval-ignore-output"]
def repaired_a(splits, seed):
    """Train the head alone, on 40 images."""
    ### BEGIN SOLUTION
    few = splits.plain().take(train=40, val=40, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.SGD(
        model.fc.parameters(), lr=0.03, momentum=0.9
    )
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 5}
    ### END SOLUTION


tl.check("ex5/case_a", repaired_a)

# %% [markdown]
# ### Step 3: case e
#
# **From the chapter.** When feature extraction is stuck on a plateau, it says to unfreeze deep layers, to give the network a
# stronger head, or to look for another pre-training domain. Those are remedies for features that do not fit the task. First
# make sure that the frozen layers are what you think they are.
#
# Done means: the training loss ends at three quarters of that of guessing or lower, and the accuracy on new
# images is above guessing.


# %% tags=["nbval-ignore-output"]
def repaired_e(splits, seed):
    """Train the head on the features of pre-trained layers."""
    ### BEGIN SOLUTION
    few = splits.plain().take(train=40, val=40, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 5}
    ### END SOLUTION


tl.check("ex5/case_e", repaired_e)

# %% [markdown]
# ### Step 4: case c
#
# More images would be the best repair, and there are none. Which of the chapter's remedies works here: regularisation, stronger
# augmentation, a lower rate, early stopping? (Its code puts `RandomErasing` before `ToTensor`, which fails: it needs a tensor.)
#
# Done means, beside case c as it was: with every seed, the gap between validation and training loss in the last epoch is
# smaller. On average, the validation loss ends no higher, and at most 0.15 above its lowest epoch. Accuracy on new images
# is at most 0.08 lower.


# %% tags=["nbval-ignore-output"]
def repaired_c(splits, seed):
    """Train on 30 images, there are no more, for a low validation loss."""
    ### BEGIN SOLUTION
    few = splits.plain().take(train=30, val=40, seed=seed)
    model = tl.models.create("tl_resnet", 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 3}
    ### END SOLUTION


tl.check("ex5/case_c", repaired_c)

# %% [markdown]
# ## Repair what fails quietly
#
# These three raise no error, and their losses stay in the usual range. So the checks look at what reaches the network and what
# moves in it.
#
# ### Step 5: case b
#
# Compare its curve with that of case e: they look alike, and the causes have nothing in common. Normalise as the weights were
# trained. The check gives your function images of one colour each, and looks at what becomes of every colour.


# %%
def repaired_b(splits, seed):
    """Train the head alone, on 40 images, normalised for the weights."""
    ### BEGIN SOLUTION
    few = splits.plain().take(train=40, val=40, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 5}
    ### END SOLUTION


tl.check("ex5/case_b", repaired_b)

# %% [markdown]
# ### Step 6: case d
#
# Keep the views if you like. No original may be on both sides, under whatever view. The check again gives your function
# images of one colour each, and follows the colours: crops and mirrors do not change them.


# %%
def repaired_d(splits, seed):
    """Train the head on three views of each image; validate on others."""
    ### BEGIN SOLUTION
    pool = splits.plain().take(train=30, seed=seed).train
    arrays = [np.asarray(pool.raw(i)) for i in range(30)]
    views = [v for a in arrays for v in (a, a[:, ::-1], a[4:-4, 4:-4])]
    labels = pool.labels.repeat_interleave(3)
    many = tl.data.ImageSet(views, labels, pool.classes, pool.transform)
    order = torch.randperm(30, generator=torch.manual_seed(seed)).tolist()
    parts = [
        many.subset(3 * i + k for i in part for k in range(3))
        for part in (order[7:], order[:7])
    ]
    few = replace(splits, train=parts[0], val=parts[1])
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    return model, few.loaders(8, seed=seed), optimizer, {"epochs": 6}
    ### END SOLUTION


tl.check("ex5/case_d", repaired_d)

# %% [markdown]
# ### Step 7: case f
#
# The doctor calls nothing wrong here. It cannot know which layers you mean to train. The check trains one epoch, and compares
# each tensor with what it was before.
#
# **From the chapter.** The same fault is in its practice section: the second phase is said to train all of EfficientNet-B0, and
# the optimizer holds `blocks` and `classifier`. The stem and the last convolution never move.


# %% tags=["nbval-ignore-output"]
def repaired_f(splits, seed):
    """Train `layer3`, `layer4` and the head; all below stays frozen."""
    ### BEGIN SOLUTION
    few = splits.take(train=40, val=40, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    groups = [{"params": model.fc.parameters(), "lr": 0.004}]
    for layer in (model.layer4, model.layer3):
        layer.requires_grad_(True)
        groups.append({"params": layer.parameters(), "lr": 0.001})
    optimizer = torch.optim.AdamW(groups)
    return model, few.loaders(16, seed=seed), optimizer, {"epochs": 4}
    ### END SOLUTION


tl.check("ex5/case_f", repaired_f)

# %% [markdown]
# ## Step 8: prove it
#
# Did the repairs of b and d help? `measure` fits a linear probe to the training images of a set-up, which takes a second
# and needs images without augmentation. It measures the probe twice: on the set-up's own validation images, and on a hundred
# fresh ones that are in no training set. The test set is not read.

# %%
case_guess = tl.guess(
    "You repair case d. What does its own validation accuracy do?",
    ["it rises", "it stays", "it falls"],
)


# %%
def measure(make, splits, images, seed):
    """Fit a probe; measure it on a case's own and on fresh images."""
    model, loaders, _, _ = make(splits, seed)
    fresh = splits.plain().take(val=100, seed=0).val
    parts = {"own": loaders.val.dataset, "fresh": fresh}
    known = tl.features.extract(model, loaders.train.dataset)
    probe = tl.features.fit_probe(known, seed=seed)
    return {
        name: probe.evaluate(tl.features.extract(model, part))
        for name, part in parts.items()
    }


# %% [markdown]
# Compare four ways with `tl.experiments.compare`: `"b"`, `"b repaired"`, `"d"` and `"d repaired"`, on `pets`, with
# `sizes=[40]` and the five seeds `runtime.seeds(5)`. Fix the first argument of `measure` with `functools.partial`.
#
# Then conclude for `"b own"`, `"d own"` and `"d fresh"`: is the repaired set-up measured as `"better"`, as `"worse"`, or is there
# `"no difference shown"`? The answer is the pair of runs and a dictionary of the three conclusions.

# %% tags=["nbval-ignore-output"]
from functools import partial

answer = ...  # a pair: the runs, and your conclusions
### BEGIN SOLUTION
makes = {"b": case_b, "b repaired": repaired_b}
makes |= {"d": case_d, "d repaired": repaired_d}
ways = {name: partial(measure, make) for name, make in makes.items()}
seeds = runtime.seeds(5)
runs = tl.experiments.compare(ways, pets, sizes=[40], seeds=seeds)
conclusions = {}
for data, case in (("own", "b"), ("own", "d"), ("fresh", "d")):
    found = runs.only(data=data).difference(f"{case} repaired", case)
    sign = "better" if found.mean > 0 else "worse"
    words = sign if found.clear else "no difference shown"
    conclusions[f"{case} {data}"] = words
answer = runs, conclusions
### END SOLUTION
verdict = tl.check("ex5/proof", answer)
verdict

# %% tags=["nbval-ignore-output"]
if verdict.outcome == "right":
    runs = answer[0]
    gain = runs.only(data="own").difference("d repaired", "d")
    case_guess.compare(f"repaired minus broken, {gain}")
    shifts = {
        way: runs.only(way=way).shift(way, "own", "fresh")
        for way in ("d", "d repaired")
    }
    grows = shifts["d"].clear and shifts["d"].mean > 0
    tl.experiments.plot_differences(
        shifts,
        title="On its own validation images, case d looks "
        + ("better than it is" if grows else "no better than on others"),
    )

# %% [markdown]
# Each dot is one seed: accuracy on a set-up's own validation images minus that on fresh ones. An honest validation set lies
# around zero. The repaired one has seven originals, so its dots scatter widely. All dots share the same fresh images: where these
# are a little harder or easier than others, all dots move together.
#
# ## What you take with you
#
# - Look at the set-up before you choose a remedy: one flat curve had two causes.
# - The doctor finds what is always a fault. What you planned, only you can compare with its table.
# - A repair can lower a validation accuracy: the old one was measured on images that the network knew.
# - Prove a repair with several seeds, on images that neither set-up has used.
#
# These are small sets and short runs. They show faults that are large; a fault that costs little would need more seeds.
#
# `tl.progress(reset="ex5")` forgets what you did here, to start again.

# %%
tl.progress("ex5")
