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
# # 3.3b Learning rates over time
#
# The learning rate is often the setting that matters most in training. In this lesson you let it change over time: with a
# schedule whose formula you know, drawn before anything trains.
#
# **You will be able to** simulate a schedule and see its mistakes before they cost an hour, tell cosine, plateau and
# one-cycle apart, find a rate to start from, and step a scheduler at the right moment.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 3.3.

# %%
from tlcourse.train import schedules

STEPS = 100
shown = {
    "cosine": lambda optimizer: schedules.cosine(optimizer, STEPS),
    "one-cycle": lambda optimizer: schedules.one_cycle(
        optimizer, STEPS, warmup=0.2
    ),
    "restarts": lambda optimizer: schedules.cosine(
        optimizer, STEPS, restarts=2
    ),
}
tl.plots.schedules(
    {
        n: schedules.simulate(make, STEPS, lr=0.001)
        for n, make in shown.items()
    },
    title="Each schedule ends near zero; what differs is the way there",
)

# %% [markdown]
# ## A schedule is a factor
#
# Training makes an optimizer step for each batch. A **schedule** multiplies the base rate, the one the optimizer was
# built with, by a factor that depends on the step. For half a cosine wave over $n$ steps, the factor at step $t$ is
#
# $$\tfrac{1}{2}\left(1 + \cos\frac{\pi t}{n}\right)$$
#
# It is one at step $0$ and zero at step $n$, one after the last. A **one-cycle** schedule first rises, then falls. **Restarts** repeat the cosine. In
# PyTorch, `LambdaLR` takes such a factor as a function. There are two exceptions below: plateau looks at a measurement, and
# PyTorch's `OneCycleLR` takes its highest rate as an argument.

# %%
import math

import torch


def cosine_factor(step):
    """Return the factor of half a cosine wave."""
    return (1 + math.cos(math.pi * step / STEPS)) / 2


def rates_by_hand(factor, steps, lr):
    """Return the rate of each step, without training anything."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


by_hand = rates_by_hand(cosine_factor, STEPS, 0.001)
package = schedules.simulate(shown["cosine"], STEPS, lr=0.001)[:, 0]
same = torch.allclose(by_hand, package)
print("`tl.train.schedules.cosine` gives these rates:", same)

# %% [markdown]
# `schedules.simulate` does the loop for any schedule, ours or PyTorch's. Look at a schedule before you train with it.
#
# ### Your turn
#
# Write the factor of a schedule with a **warm-up** over the first ten of `STEPS` steps: `0.1` at step `0`, `0.2` at step
# `1`, and so on, up to `1.0` at step `9`. From step `10` on, it falls along half a cosine wave from `1.0` at step `10`
# to `0.0` at step `STEPS`.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(step):
#     if step < 10:
#         return (step + 1) / 10
#     return (1 + math.cos(math.pi * (step - 10) / (STEPS - 10))) / 2
# ```
# </details>

# %%
answer = ...  # a function: def factor(step): ...
tl.check("3.3b/warmup", answer)

# %% [markdown]
# ## Example 4: three schedulers of PyTorch
#
# **From the chapter.** It builds `CosineAnnealingLR`, `ReduceLROnPlateau` and `OneCycleLR` on one optimizer with a rate
# of `1e-3`, one after the other, to show them. (It also passes `verbose=True`, which today's PyTorch refuses.)

# %%
rate_guess = tl.guess(
    "What is the optimizer's rate after the third constructor?",
    ["1e-3, as it was built", "1e-6", "4e-5"],
)

# %%
from torch.optim import lr_scheduler

optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-3)
lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-6)
lr_scheduler.ReduceLROnPlateau(
    optimizer, mode="max", factor=0.5, patience=3
)
lr_scheduler.OneCycleLR(
    optimizer, max_lr=1e-3, steps_per_epoch=100, epochs=50
)
group = optimizer.param_groups[0]
rate_guess.compare(
    f"{group['lr']:.0e}; and Adam's first beta is {group['betas'][0]:.2f}"
)
tl.claim(
    "the last constructor has rewritten the rate and Adam's first beta",
    math.isclose(group["lr"], 4e-5)
    and math.isclose(group["betas"][0], 0.95),
)

# %% [markdown]
# The constructors of cosine and one-cycle set the rate of step zero; plateau's doesn't. One-cycle also varies the momentum, which for Adam is its first beta. So build
# **one scheduler per optimizer**; to combine some, use `SequentialLR`, which is made for it. The functions of `tl.train.schedules` go back to the base rates, and leave the betas
# alone; after a `OneCycleLR` they say that you need a new optimizer.
#
# **From the chapter.** It says that cosine annealing changes the rate periodically, every `T_max` steps. Does it?

# %%
cosine_guess = tl.guess(
    "CosineAnnealingLR with T_max=50, stepped 100 times: its last rate is",
    ["close to zero, and stays there", "back where it began", "negative"],
)

# %%
pytorch = schedules.simulate(
    lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=50), 101, lr=0.001
)
ours = schedules.simulate(lambda o: schedules.cosine(o, 50), 101, lr=0.001)
tl.plots.schedules(
    {"CosineAnnealingLR": pytorch, "schedules.cosine": ours},
    title="Past its end, PyTorch's cosine climbs back up",
)
cosine_guess.compare(f"{pytorch[-1, 0]:.4f}")
tl.claim(
    "after twice T_max steps, the rate is back at its start",
    math.isclose(pytorch[-1, 0], 0.001, rel_tol=1e-6),
)

# %% [markdown]
# It does repeat, but only after `2 * T_max` steps, and it climbs back slowly instead of starting anew. Use it for `T_max` steps.
# To restart, use `CosineAnnealingWarmRestarts`, or here `restarts=2`.
#
# **From the chapter.** Its loop sets a validation accuracy to zero and gives it to the plateau scheduler. The code that would
# measure it is left out, so as printed it stays at zero. `ReduceLROnPlateau` lowers the rate when a measurement has not
# improved for more than `patience` epochs. The cell uses losses; a constant is no improvement either way.

# %%
plateau_guess = tl.guess(
    "Twenty epochs at 0.0, patience 3: how often is the rate halved?",
    ["never: nothing got worse", "once", "four times or more"],
)

# %%
epochs = 20
constant = schedules.simulate(
    schedules.plateau, epochs, lr=0.001, metrics=[0.0] * epochs
)
falling = [1 / (1 + epoch) for epoch in range(epochs)]
learns = schedules.simulate(
    schedules.plateau, epochs, lr=0.001, metrics=falling
)
tl.plots.schedules(
    {"a constant": constant, "a falling loss": learns},
    unit="epoch",
    title="Fed with a constant, plateau halves the rate again and again",
)
halved = round(math.log2(0.001 / constant[-1, 0]))
plateau_guess.compare(f"{halved} times")

# %% [markdown]
# ## Does a schedule help?
#
# The fine-tuning with falling rates of 3.3, which used one-cycle, now with four schedules. Studied: the schedule. Tuned: the
# highest rate of each, the constant one too, among five on the validation set, with other seeds. One-cycle got the highest of
# the five, so a still higher one may be better. Fixed: images, the layers' rates to each other, passes. Dots are stored runs,
# the diamond is a run that your machine makes now. The ± below covers the choice of training images, the random head and the order of
# batches; all runs share their validation images. With another backbone or other images nothing is tuned yet.

# %%
schedule_guess = tl.guess(
    "How many of the three schedules do these runs show to be better "
    "than a constant rate that was tuned as carefully?",
    ["none", "one", "two or three"],
)

# %% tags=["nbval-ignore-output"]
MINI = runtime.profile == "mini"
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 100 or more
KINDS = ("constant", "cosine", "warm-up and cosine", "one-cycle")
TUNED = dict(zip(KINDS, (0.003, 0.001, 0.001, 0.01), strict=True))

# %% tags=["nbval-ignore-output"]
from dataclasses import replace

backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS)
pets = tl.data.load(DATA, model=backbone, train=LIMIT)
way = tl.experiments.Trained(
    lr=0, passes=15, weights=WEIGHTS, layer_decay=0.7, model=BACKBONE
)
ways = {k: replace(way, lr=rate, schedule=k) for k, rate in TUNED.items()}
now = {"one-cycle": ways["one-cycle"]} if MINI else ways
seeds = runtime.seeds(1 if MINI else 5)
live = tl.experiments.compare(now, pets, sizes=[100], seeds=seeds)
stored = tl.experiments.stored("schedules") if MINI else live
gains = {k: stored.difference(k, "constant") for k in KINDS[1:]}

# %% tags=["nbval-ignore-output"]
better = [k for k, gain in gains.items() if gain.clear and gain.mean > 0]
worse = [k for k, gain in gains.items() if gain.clear and gain.mean < 0]
count = (
    f"{len(better)} of 3 schedules" if better else "No schedule is shown to"
)
stored.plot(live=live, title=f"{count} beat a constant rate here")
for kind, gain in gains.items():
    print(f"{kind:18} minus constant {gain}")
schedule_guess.compare(len(better) or "none")
if MINI:
    agree = live.agree_with(stored)
    tl.claim("this run lies where 99 of 100 such runs would", agree)
    tl.claim(
        "in stored runs, no schedule is shown to differ from a constant",
        not better + worse,
        f"largest margin {max(one.margin for one in gains.values()):.3f}",
    )

# %% [markdown]
# No difference that these runs can show; the printed ± says how small a difference they could have shown. A constant rate is a strong
# baseline when it is tuned as carefully as the schedules, and this training is short. That doesn't make schedules useless:
# other lengths and other tasks need their own comparison. Cosine and one-cycle need to know
# the number of steps beforehand. Plateau doesn't, but it needs a validation loss that is measured well; it was not compared.
#
# ## A rate to start from
#
# A **range test** trains a copy of the model for some steps while the rate rises from tiny to huge. Where the loss falls
# fastest is a place to start; where it explodes, the rate is too high.

# %%
range_guess = tl.guess(
    "The test stops when the loss has exploded. At a rate of about",
    ["0.001", "0.01", "0.1 or more"],
)

# %% tags=["nbval-ignore-output"]
import copy

torch.manual_seed(runtime.seed)
model = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
model.to(runtime.device)
few = pets.take(train=100, val=100, seed=runtime.seed)
loaders = few.loaders(16, seed=runtime.seed)
optimizer = torch.optim.AdamW(
    tl.models.param_groups(model, 0.001, layer_decay=0.7)
)
before = copy.deepcopy(model.state_dict())
test = tl.train.lr_range_test(model, loaders.train, optimizer, steps=60)
tl.plots.range_test(test, title="The loss falls, and then explodes")
range_guess.compare(
    f"{max(test.rates):.2g}" + ("" if test.diverged else ", or never")
)
same = [v.equal(before[name]) for name, v in model.state_dict().items()]
print("the model is as it was:", all(same))
print(f"a place to start: {test.suggestion or float('nan'):.1e}")

# %% [markdown]
# The line averages neighbouring steps, so it rises before the dots do; the highest dots lie above the figure. The rate is
# the head's. The test suggests a place to start, not the best rate: with other batches it may be several times higher or lower. Compare with the
# rates above, which were chosen on the validation set.
#
# ## The trap: a schedule that counts something else
#
# A scheduler counts the calls of `step()`, nothing else. In a loop there are two places for it. Use one:
#
# ```python
# for epoch in range(epochs):
#     for images, labels in loader:
#         loss = nn.functional.cross_entropy(model(images), labels)
#         optimizer.zero_grad()
#         loss.backward()
#         optimizer.step()
#         scheduler.step()  # either here: built for all batches
#     scheduler.step()  # or here: built for all epochs
# ```
#
# You build `OneCycleLR` for all batches, and step it once per epoch. `tl.train.Schedule` says when `fit` steps a scheduler.

# %%
top_guess = tl.guess(
    "Five epochs later, the rate is",
    ["close to zero, as planned", "still in the warm-up", "at its top"],
)

# %% tags=["nbval-ignore-output"]
EPOCHS, TOP = 5, 0.03
steps = EPOCHS * len(loaders.train)
losses, rates = {}, {}
for interval in ("epoch", "step"):
    torch.manual_seed(runtime.seed)
    model = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
    tl.models.freeze(model.to(runtime.device))
    head = tl.models.head(model)
    optimizer = torch.optim.SGD(head.parameters(), lr=TOP)
    scheduler = lr_scheduler.OneCycleLR(optimizer, TOP, total_steps=steps)
    schedule = tl.train.Schedule(scheduler, interval)
    history = tl.train.fit(
        model, loaders, optimizer, epochs=EPOCHS, scheduler=schedule
    )
    losses[interval] = history.column("val_loss")[-1]
    report = tl.examine(model, optimizer, loaders, schedule, epochs=EPOCHS)
    found = [one for one in report.findings if "interval" in one.check]
    print(f"once per {interval}: validation loss {losses[interval]:.2f}")
    print(*found or ["    the doctor has nothing to say"], sep="\n")
    rates[interval] = bool(found), history.column("lr")[-1]

# %% tags=["nbval-ignore-output"]
planned = schedules.simulate(
    lambda o: lr_scheduler.OneCycleLR(o, TOP, total_steps=steps), steps
)
by_epoch = planned[:EPOCHS].repeat_interleave(len(loaders.train), 0)
tl.plots.schedules(
    {"stepped by epoch": by_epoch, "stepped by batch": planned},
    title="Stepped once per epoch, one-cycle never leaves its warm-up",
)
top_guess.compare(f"{rates['epoch'][1]:.4f} of {TOP}")
tl.claim(
    "by epoch, the rate stays in the warm-up, and the doctor says so",
    math.isclose(rates["epoch"][1], planned[EPOCHS - 1, 0], rel_tol=1e-6)
    and planned[:, 0].argmax() >= EPOCHS
    and [found for found, _ in rates.values()] == [True, False],
)

# %% [markdown]
# Here you see both losses. In practice you see the first alone, and it looks plausible. What is wrong is that you trained with
# another schedule than the one you planned.
#
# ### Your turn
#
# Write a function of an optimizer, a number of epochs and a number of batches per epoch. It returns a `OneCycleLR` of PyTorch with a
# highest rate of `0.01`, to be stepped after every batch.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(optimizer, epochs, batches):
#     return lr_scheduler.OneCycleLR(
#         optimizer, max_lr=0.01, total_steps=epochs * batches
#     )
# ```
# </details>

# %%
answer = ...  # a function: def answer(optimizer, epochs, batches): ...
tl.check("3.3b/length", answer)

# %% [markdown]
# The functions of `tl.train.schedules` return a schedule that knows when to be stepped, and `tl.train.fit` steps it.
#
# ## Your own images
#
# Set `FOLDER` to a folder with one subfolder per class. The schedule is warm-up and cosine, to practise it. The rate was
# tuned for the toy pets, in a longer training: look for yours with a range test, then compare a few on your validation set. `fit` keeps the epoch that was best on
# the validation set. The test set is read once.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"

place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=backbone)

# %% tags=["nbval-ignore-output"]
torch.manual_seed(runtime.seed)
model = tl.models.create(BACKBONE, len(mine.classes), weights=WEIGHTS)
model.to(runtime.device)
own = mine.loaders(16, seed=runtime.seed)
groups = tl.models.param_groups(model, 0.001, layer_decay=0.7)
optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
schedule = schedules.warmup_cosine(optimizer, 4 * len(own.train))
history = tl.train.fit(model, own, optimizer, epochs=4, scheduler=schedule)
best = history.best.epoch
tl.plots.learning_curves(
    history, title=f"Of four epochs, number {best} is best, and is kept"
)

# %% tags=["nbval-ignore-output"]
print(f"validation, best epoch: {history.best.val_accuracy:.3f}")
print(f"test, once: {tl.train.evaluate(model, own.test)}")
file = Path("runs") / "my-scheduled.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
image = mine.test.sources[0]
answer = tl.predict.predict_files(loaded, about["classes"], [image])[0]
truth = mine.classes[mine.test.labels[0]]
print(f"{image.name}: truth {truth}, answer {answer.label}")

# %% [markdown]
# ## Take-away
#
# - Most schedules multiply a base rate by a factor that depends on the step: simulate it before you train.
# - One scheduler per optimizer, or `SequentialLR`: a constructor can rewrite the rate.
# - In a short training, no schedule was shown to beat a constant rate that was tuned as well.
# - A scheduler counts calls of `step()`: build it for as many as the loop makes.
# - A range test gives a place to start, and leaves the model as it was.
#
# <details><summary>You resume a training for more epochs than you planned. What about a cosine schedule?</summary>
#
# It was made for the old number of steps. PyTorch's climbs back up, ours stays at its end. Make a new one for the rest.
# </details>
#
# <details><summary>Your plateau scheduler lowers the rate every few epochs, whatever happens. Why?</summary>
#
# It sees no improvement: a constant, a measurement in the wrong direction (`mode`), or noise that is larger than the progress.
# </details>
#
# <details><summary>Two schedules differ by half of the printed ±. Which one is better?</summary>
#
# These runs can't say. More seeds or more validation images make the margin smaller; until then, take the simpler one.
# </details>
#
# **Read on:** [Smith and Topin](https://arxiv.org/abs/1708.07120), *Super-convergence*; [Loshchilov and
# Hutter](https://arxiv.org/abs/1608.03983), *SGDR*, on cosine and restarts. Next: 3.4, torchvision's models.
