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
# # Exercise 2: schedule the learning rate
#
# You train in two stages: the head alone, with a rate that falls where the validation loss stays, then all layers, each
# stage with its own rate, through a warm-up and a cosine. At the end you measure what the schedule gained.
#
# **Difficulty:** medium. **Time:** about 40 minutes, and one minute to run. **Builds on** 3.3b.
#
# **It trains you to** say which parameter gets which rate at which step, to look at that before you train, and to
# conclude no more than your runs show.
#
# Each step ends with a check. It looks at what your code does, so spell it as you like. `tl.hint("ex2/plateau")` gives
# a hint, a stronger one each time; `tl.solution("ex2/plateau")` shows one answer. Unanswered steps say *not yet*.

# %% [markdown]
# ## Step 1: the head, and a plateau
#
# Everything but the head `fc` is frozen. The head starts with a rate of `0.01`. After each epoch the scheduler is given
# the **validation loss**. It forgives two epochs in a row without a new lowest loss; at the third it halves the rate.

# %%
import torch
from torch.optim import lr_scheduler


def head_stage(model):
    """Freeze all but `fc`; return the head's optimizer and scheduler."""
    ### BEGIN SOLUTION
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.01)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="min", factor=0.5, patience=2
    )
    return optimizer, scheduler
    ### END SOLUTION


tl.check("ex2/plateau", head_stage)

# %% [markdown]
# ## Step 2: all layers, each stage with its rate
#
# Now everything trains. The stages of `tl_resnet`, from below, are the stem (`conv1` and `bn1`), `layer1` to `layer4`, and
# the head `fc`. The head has a rate of `0.004`, and each stage has half the rate of the one above it.
#
# **From the chapter.** Its solution says "Stage 2: fine-tune all layers", and then builds an optimizer that holds
# `layer4` and `fc`. What is in no group stays as it is, without an error. The check looks for such parameters.

# %%
model = tl.models.create("tl_resnet", 2)
for name, child in model.named_children():
    count = len(list(child.parameters()))
    print(f"{name:12} {count:3} parameter tensors")


# %%
def fine_tune_groups(model):
    """Unfreeze a frozen model; return groups for all its parameters."""
    ### BEGIN SOLUTION
    model.requires_grad_(True)
    rate, groups = 0.004, []
    for stage in ("fc", "layer4", "layer3", "layer2", "layer1", "stem"):
        names = ("conv1", "bn1") if stage == "stem" else (stage,)
        params = [
            p for name in names for p in getattr(model, name).parameters()
        ]
        groups.append({"params": params, "lr": rate, "name": stage})
        rate /= 2
    return groups
    ### END SOLUTION


tl.check("ex2/groups", fine_tune_groups)

# %% [markdown]
# ## Step 3: a warm-up, then a cosine
#
# The scheduler is stepped after **every batch**. In the first epoch, each group's rate rises in equal parts: with $b$ batches,
# the factor of step $t$ is $(t + 1) / b$, so the last step of the epoch has the full rate. All other steps follow half a
# cosine wave: the first of them has the full rate again, and the wave would reach zero one step after the last.

# %%
import math


def warmup_cosine(optimizer, epochs, batches):
    """Return a scheduler that multiplies every group's rate."""
    ### BEGIN SOLUTION
    fall = epochs * batches - batches

    def factor(step):
        if step < batches:
            return (step + 1) / batches
        return (1 + math.cos(math.pi * (step - batches) / fall)) / 2

    return lr_scheduler.LambdaLR(optimizer, factor)
    ### END SOLUTION


verdict = tl.check("ex2/warmup", warmup_cosine)
verdict

# %% [markdown]
# Look at a schedule before you train with it. This cell draws yours once the check is content.

# %%
EPOCHS, BATCHES = 5, 3
if verdict.outcome == "right":
    rates = tl.train.schedules.simulate(
        lambda optimizer: warmup_cosine(optimizer, EPOCHS, BATCHES),
        EPOCHS * BATCHES,
        lr=[0.004, 0.002, 0.001],
    )
    tl.plots.schedules(
        {"three of the groups": rates},
        title="All groups rise and fall together, each from its own rate",
    )

# %% [markdown]
# ## Step 4: a group that comes later
#
# Often you train the head first, and a stage joins its optimizer later, so that the head's moments are kept. What
# happens to schedulers that were built before?

# %%
guess = tl.guess(
    "A cosine was built for the head. Then a second group joins with a "
    "rate of 0.001. What does the next step of the scheduler do to it?",
    ["nothing: it stays at 0.001", "it lowers it", "it raises an error"],
)

# %%
schedulers = {
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 - t / 10),
}
results = []
for name, make in schedulers.items():
    first, second = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([first], lr=0.01)
    scheduler = make(optimizer)
    optimizer.step()
    scheduler.step()
    optimizer.add_param_group({"params": [second], "lr": 0.001})
    try:
        scheduler.step()
        rate = optimizer.param_groups[1]["lr"]
        results.append(f"{name} makes it {rate:.5f}")
    except (ValueError, IndexError) as error:
        results.append(f"{name} raises a {type(error).__name__}")
guess.compare("; ".join(results))

# %% [markdown]
# The cosine pulls the new group along, from the middle of its wave, and LambdaLR raises an error. To give both groups a full
# wave, build a new scheduler. Write a function of the head's optimizer, which a cosine has already used, of the
# parameters that join (they are still frozen), their rate, and a number of steps. The parameters train and join the same optimizer.
# The function returns a new scheduler: half a cosine wave over `steps` steps, to zero, for **both** groups, each from the
# rate that it was built with.


# %%
def add_stage(optimizer, parameters, rate, steps):
    """Let parameters join; return a new scheduler for all groups."""
    ### BEGIN SOLUTION
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer.add_param_group({"params": parameters, "lr": rate})
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"])
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    ### END SOLUTION


tl.check("ex2/late", add_stage)

# %% [markdown]
# ## Step 5: what did it gain?
#
# `fine_tune` trains all layers with your groups, and with the schedule that `make_schedule` returns, on few toy pets. It
# measures on validation images. The test set is not read.


# %%
def fine_tune(make_schedule, splits, images, seed):
    """Train with your groups and a schedule, and measure."""
    torch.manual_seed(seed)
    few = splits.take(train=images, val=100, seed=seed)
    loaders = few.loaders(16, seed=seed)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2))
    optimizer = torch.optim.AdamW(fine_tune_groups(model))
    scheduler = make_schedule(optimizer, EPOCHS, len(loaders.train))
    for _ in range(EPOCHS):
        for inputs, labels in loaders.train:
            tl.models.train_mode(model)
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return tl.train.evaluate(model, loaders.val)


def constant(optimizer, epochs, batches):
    """Return a scheduler that leaves every rate as it is."""
    return lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


pets = tl.data.load("toypets", model=tl.models.create("tl_resnet", 2))

# %% [markdown]
# Compare two ways with `tl.experiments.compare(ways, pets, sizes=[40], seeds=runtime.seeds(5))`, where `ways` is a dictionary
# with `"constant"` and `"scheduled"`. `runs.difference("scheduled", "constant")` pairs the seeds. It calls each way with `(splits, images, seed)`, so fix the first argument of `fine_tune` with
# `functools.partial`. It runs for about half a minute.
#
# Then conclude: `"better"`, `"worse"`, or `"no difference shown"`. The answer is the pair of runs and conclusion. It is
# right when your runs support it, whichever it is.

# %% tags=["nbval-ignore-output"]
from functools import partial

answer = ...  # a pair: the runs, and your conclusion
### BEGIN SOLUTION
ways = {
    "constant": partial(fine_tune, constant),
    "scheduled": partial(fine_tune, warmup_cosine),
}
runs = tl.experiments.compare(
    ways, pets, sizes=[40], seeds=runtime.seeds(5)
)
gain = runs.difference("scheduled", "constant")
conclusion = "no difference shown"
if gain.clear:
    conclusion = "better" if gain.mean > 0 else "worse"
answer = runs, conclusion
### END SOLUTION
tl.check("ex2/gain", answer)

# %% [markdown]
# Your two ways share one highest rate, chosen for neither. A fair comparison tunes the rate of each. Lesson 3.3b has stored
# runs that did, with more images and longer training:

# %%
stored = tl.experiments.stored("schedules")
print(stored.difference("warm-up and cosine", "constant"))

# %% [markdown]
# ## What you take with you
#
# - A plateau scheduler is as good as the number that it is given.
# - Count the parameters in the groups: what is in no group never moves.
# - A factor of the base rate keeps the ratio of the groups; a rate for all does not.
# - Build a new scheduler when a group joins, and look where it starts.
#
# `tl.progress(reset="ex2")` forgets what you did here, to start again.

# %%
tl.progress("ex2")
