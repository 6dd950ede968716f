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
# # 3.3 Fine-tuning
#
# In the lesson before, the backbone stayed as it was. Now you train it, too: all of it, or stage by stage, with lower
# learning rates where the features are general.
#
# **You will be able to** give each stage its own learning rate, unfreeze a network in phases without losing the
# optimizer's memory, decide what happens to batch norm, and measure what a network forgets.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 3.2.

# %%
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 100 or more
MINI = runtime.profile == "mini"

backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS).to(runtime.device)
pets = tl.data.load(DATA, model=backbone, train=LIMIT)

# %%
layers_guess = tl.guess(
    "A hundred training images, millions of parameters: "
    "is it better to train all layers, or the head alone?",
    ["the head alone", "no difference", "all layers"],
)

# %% [markdown]
# ## A first result
#
# **Fine-tuning** starts from the pre-trained weights and trains them further. What is studied here is whether the whole
# network trains, or its head alone. The images are the same, and each way was tuned: the learning rate of
# fine-tuning among three on the validation set, with two other seeds; the probe's penalty by cross-validation. One thing differs besides: the head alone is
# a logistic regression on features of unchanged images, while all layers train on augmented ones. Part of a gap may come
# from that.
#
# Dots are stored runs, diamonds are runs that your machine makes now. With another backbone or other images nothing is
# tuned yet: the rate below may be far too high for them, so tune it first.

# %% tags=["nbval-ignore-output"]
ways = {
    "frozen": tl.experiments.Probe(backbone),
    "fine-tuned": tl.experiments.Trained(
        lr=0.001, passes=15, weights=WEIGHTS, model=BACKBONE
    ),
}
seeds = runtime.seeds(1 if MINI else 5)
live = tl.experiments.compare(ways, pets, sizes=[100], seeds=seeds)
stored = tl.experiments.stored("fine_tuning") if MINI else live
home = stored.only(data=pets.name)
gain = home.difference("fine-tuned", "frozen")
found = "beats" if gain.mean > gain.margin else "doesn't clearly beat"
(home.only(way="frozen") + home.only(way="fine-tuned")).plot(
    live=live, title=f"Training all layers {found} training the head alone"
)

# %% tags=["nbval-ignore-output"]
layers_guess.compare(f"all layers minus head alone {gain}")
if MINI:
    better = gain.mean > gain.margin
    tl.claim("on the toy pets, training all layers is better", better)
    agree = live.agree_with(stored)
    tl.claim("this run lies where 99 of 100 such runs would", agree)

# %% [markdown]
# ## Which layer at which rate
#
# Early stages hold edges and colours that serve many tasks. To change them less, let the rate fall from the head
# towards the input:
#
# $$\mathrm{lr}_i = \mathrm{lr} \cdot \gamma^{\,n-i}$$
#
# Stage $i$ of $n$ has the rate $\mathrm{lr}_i$. The head is stage $n$ and has the full rate $\mathrm{lr}$; the decay $\gamma$ is at most
# one. These are **discriminative learning rates**. In PyTorch, an optimizer takes a list of groups, each with a rate.

# %%
import torch

GAMMA = 0.7
model = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
model.to(runtime.device)
parts = tl.models.stages(model)
groups = []
for i, part in enumerate(parts, start=1):
    rate = 0.001 * GAMMA ** (len(parts) - i)
    groups.append({"params": list(part.parameters.values()), "lr": rate})
optimizer = torch.optim.AdamW(groups)
same = tl.models.param_groups(model, 0.001, layer_decay=GAMMA)
rates = [[group["lr"] for group in kind] for kind in (groups, same)]
print("`tl.models.param_groups` gives the same:", rates[0] == rates[1])


def draw(gamma, model=model):
    """Draw the rate of each stage."""
    groups = tl.models.param_groups(model, 0.001, layer_decay=gamma)
    title = f"γ = {gamma}: the rate falls from the head to the stem"
    tl.plots.learning_rates(groups, low=1e-6, title=title)


tl.slider(draw, "γ", [0.3, 0.5, 0.7, 0.9], start=GAMMA)

# %% [markdown]
# Move the slider: with a small $\gamma$ the stem hardly trains, and with a large one all stages train at similar rates.
#
# Is that better? In the stored runs each way has the best of three rates, so the head's rate differs between ways: it is
# printed with each. Falling rates, with the same $\gamma$, got the highest of the three; the last three, explained
# below, the lowest. For these, a rate beyond may be better.

# %% tags=["nbval-ignore-output"]
if MINI:
    settings = stored.about[pets.name]["ways"]
    for kind in list(settings)[1:]:
        rate = settings[kind].split("lr=")[1].split(",")[0]
        print(f"{kind}: highest rate {rate}")
    print("falling rates, minus one rate for all layers:")
    print("   ", home.difference("falling rates", "fine-tuned"))
    print("last stage and head, minus all layers:")
    print("   ", home.difference("last stage alone", "fine-tuned"))

# %% [markdown]
# ### Your turn
#
# Make an AdamW optimizer for the ResNet-18 below: the head at a rate of `1e-3`, `layer4` at `1e-4`, everything else at
# `1e-5`. Each parameter belongs to one group.
#
# <details><summary>Solution</summary>
#
# ```python
# rates = {"fc.": 1e-3, "layer4.": 1e-4, "": 1e-5}
# groups = {key: [] for key in rates}
# for name, parameter in resnet18.named_parameters():
#     key = next(key for key in rates if name.startswith(key))
#     groups[key].append(parameter)
# answer = torch.optim.AdamW(
#     [{"params": groups[key], "lr": rate} for key, rate in rates.items()]
# )
# ```
# </details>

# %%
import torchvision

resnet18 = torchvision.models.resnet18(weights=None)
answer = ...  # an optimizer
tl.check("3.3/groups", answer if answer is ... else (resnet18, answer))

# %% [markdown]
# ## Unfreeze in phases
#
# Another way to be careful is Example 3 of the textbook chapter that this course follows: train the head first, then the
# last stage with it, then more. A parameter is unfrozen by its name, in PyTorch with `requires_grad_(True)` for each name
# that starts with `layer4`, or for a stage and all above it with `tl.models.unfreeze_from`.

# %%
share_guess = tl.guess(
    "ResNet-50, head and last stage unfrozen: what share of it trains?",
    ["about a third", "about two thirds", "nine tenths"],
)

# %%
CHAPTER = {"head": 4_098, "layer4": 7_102_466, "layer3": 14_172_610}
network = tl.models.create("resnet50", 2, weights=None)
total, counts = sum(p.numel() for p in network.parameters()), {}
for stage, printed in CHAPTER.items():
    tl.models.unfreeze_from(network, stage)
    trains = [p.numel() for p in network.parameters() if p.requires_grad]
    counts[stage] = sum(trains)
    print(
        f"from {stage:7} up: {counts[stage]:>10,}, chapter: {printed:>10,}"
    )
share_guess.compare(f"{counts['layer4'] / total:.0%}")
tl.claim(
    "the chapter's second number is that of layer3 and the head",
    CHAPTER["layer4"]
    == counts["layer3"] - counts["layer4"] + counts["head"],
)

# %% [markdown]
# **From the chapter.** Only the head's count is right. The chapter's cell can't have printed the others: in its
# `f"{7,102,466:,}"` the commas make a tuple, and formatting that is a `TypeError`.
#
# `tl.train.fit_gradual` trains phases in turn, with one optimizer: for each phase it sets groups and rates anew, and keeps the
# optimizer's memory of what was training already. `tl.train.CHAPTER_PLAN` has the stages and rates of the chapter's phases,
# and a last phase whose rate is ours, because the chapter gives none. The chapter trains longer than the two epochs here.

# %% tags=["nbval-ignore-output"]
from dataclasses import replace

torch.manual_seed(runtime.seed)
model = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
model.to(runtime.device)
few = pets.take(train=100, val=100, seed=runtime.seed)
phases = tl.train.plan(model, epochs=1 + MINI)  # for any network
if [part.name for part in parts][-3:] == ["layer3", "layer4", "head"]:
    phases = [replace(phase, epochs=2) for phase in tl.train.CHAPTER_PLAN]
optimizer = torch.optim.Adam(model.parameters())
loaders = few.loaders(16, seed=runtime.seed)
history = tl.train.fit_gradual(model, loaders, optimizer, phases)
tl.plots.learning_curves(
    history, title="Four phases, each with more to train"
)
for way, accuracies in home.by_size().items():
    if way in ("frozen", "fine-tuned"):
        mean = sum(accuracies[100]) / len(accuracies[100])
        print(f"{way}, mean of the runs above: {mean:.3f}")
print(f"in phases, last epoch: {history.epochs[-1].val_accuracy:.3f}")
print(f"in phases, the epoch kept: {history.best.val_accuracy:.3f}")

# %% [markdown]
# This is one short run, so it decides nothing about phases. It shows how they work: each later phase adds a part that
# has not trained yet, at a lower rate than what is above it.
#
# ## The trap: unfrozen, and still not training
#
# You train the head. Then you unfreeze the last stage and go on with the optimizer that you have.

# %%
moved_guess = tl.guess(
    "The optimizer was built for the head. "
    "Which weights change in one more epoch?",
    ["head and last stage", "the head alone", "the last stage, not it"],
)

# %% tags=["nbval-ignore-output"]
import copy

stuck = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
stuck.to(runtime.device)
tl.models.freeze(stuck)
old_head = tl.models.head(stuck)
optimizer = torch.optim.Adam(old_head.parameters(), lr=0.001)
tl.train.fit(stuck, loaders, optimizer, epochs=1)

last = parts[-2].name
tl.models.unfreeze_from(stuck, last)
before = copy.deepcopy(stuck.state_dict())
tl.train.fit(stuck, loaders, optimizer, epochs=1)
now = stuck.state_dict()
moved = {name for name, old in before.items() if not old.equal(now[name])}
weights = {name for name, _ in stuck.named_parameters()}
moved_guess.compare(f"moved: {', '.join(sorted(moved & weights))}")
print("other things that moved:", len(moved - weights), f"in {last}")
if MINI:
    print("with the last stage, minus the head alone (stored):")
    print("   ", home.difference("last stage alone", "frozen"))

# %% tags=["nbval-ignore-output"]
report = tl.examine(stuck, optimizer)
report

# %% [markdown]
# The weights of the last stage don't change, because no optimizer holds them. Its statistics do: `tl.train.fit` puts a batch
# norm into evaluation mode while its parameters are frozen, and these no longer are. (The table says *eval* because `fit`
# leaves the model in evaluation mode.) The stored difference shows what you may miss; part of it may come from augmentation.
#
# The **doctor** names it. There are two repairs: a new optimizer for everything that trains, as the chapter makes one in
# each phase, or more groups for the old one. Adam keeps running means of each parameter's gradient and of its
# square, its **moments**. A new optimizer starts without them.

# %% tags=["nbval-ignore-output"]
twin, longer = copy.deepcopy((stuck, optimizer))
weight = tl.models.head(twin).weight
moments = longer.state[weight]["exp_avg"].clone()
new = torch.optim.Adam(tl.models.param_groups(twin, 0.001))
# The rates of all groups are set anew, the head's too.
tl.models.extend_optimizer(longer, twin, 0.001, layer_decay=GAMMA)
kept = longer.state[weight]["exp_avg"].equal(moments)
print("the head's moments, extended:", "kept" if kept else "lost")
print("in a new one:", "none" if weight not in new.state else "some")
tl.claim(
    "the doctor finds it, and nothing of it after the repair",
    bool(report.named("not-in-optimizer"))
    and not tl.examine(twin, longer).named("not-in-optimizer"),
)

# %% [markdown]
# Whether kept moments make the result better is another question, which no run here answers.
#
# ### Your turn
#
# Write a function of a ResNet and of an optimizer that holds its head. It unfreezes `layer4` and gives its parameters to the
# **same** optimizer, at a rate of `1e-4`. The head keeps its rate and its moments.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(model, optimizer):
#     model.layer4.requires_grad_(True)
#     more = list(model.layer4.parameters())
#     optimizer.add_param_group({"params": more, "lr": 1e-4})
# ```
# </details>

# %%
answer = ...  # a function: def answer(model, optimizer): ...
tl.check("3.3/unfreeze", answer)

# %% [markdown]
# ## Does a good head first help?
#
# A new head is random, and its first errors are said to spoil the backbone. The remedy is to fit a linear
# probe, put it into the head, and then train all layers ([Kumar and others](https://arxiv.org/abs/2202.10054), who expect most of
# it on unusual images, see below). Look at both parts of the argument: the first gradient, and what the remedy gains.

# %% tags=["nbval-ignore-output"]
from torch import nn


def first_step(model, images, labels):
    """Return the loss, and the length of the gradient below the head."""
    head = tl.models.head_name(model)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    below = [
        p for n, p in model.named_parameters() if not n.startswith(head)
    ]
    gradient = torch.stack([p.grad.norm() for p in below]).norm()
    size = tl.models.head(model).weight.norm().item()
    found = {"loss": loss.item(), "gradient": gradient.item()}
    return found | {"head's weights": size}


# %% tags=["nbval-ignore-output"]
plain = few.plain()
batch = [b.to(runtime.device) for b in next(iter(plain.loaders().train))]
steps = tl.Table()
for kind in ("random", "probe"):
    torch.manual_seed(runtime.seed)
    model = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
    model.to(runtime.device)
    if kind == "probe":
        train_x = tl.features.extract(model, plain.train)
        tl.features.put_into_head(model, tl.features.fit_probe(train_x))
    for mode in ("evaluation", "training"):
        model.train(mode == "training")
        found = first_step(model, *batch)
        steps.append({"head": kind, "mode": mode} | found)
ratio = steps[3]["gradient"] / steps[1]["gradient"]
print(f"gradient in training mode, probe / random head: {ratio:.1f}")
if MINI:
    gained = home.difference("head first", "fine-tuned")
    print(f"accuracy, head first minus random head: {gained}")
steps

# %% [markdown]
# The probe was fitted to these images, so its smaller loss in evaluation mode is no surprise. Its gradient need not be smaller:
# the error is passed down through the head's weights, and the probe's weights are larger. In training mode, batch norm uses
# the batch's own mean and variance, to which the probe was not fitted. Where the printed ratio is above one, the gradient
# below the head is larger after a probe, not smaller: the argument doesn't hold for this batch.
#
# ## Batch norm: keep the statistics, or let them move?
#
# In fine-tuning, batch norm normalises each training batch by that batch's own mean and variance, and its running
# statistics follow the new images. With few images and small batches these are noisy. To keep them, freeze the batch norms:
#
# ```python
# for module in model.modules():
#     if isinstance(module, nn.BatchNorm2d):
#         module.requires_grad_(False)  # scale and shift
#         module.eval()  # statistics: again after each model.train()
# ```
#
# `tl.train.fit` does the last line for whatever is frozen.

# %%
kept_guess = tl.guess(
    "Keep the statistics, or let them follow the training images: "
    "which is better on styles that were never trained on?",
    ["keeping them", "no difference", "letting them move"],
)

# %% tags=["nbval-ignore-output"]
STYLES = ("cartoon", "line", "silhouette")
if MINI:
    others = [tl.data.load(f"toypets-{style}").test for style in STYLES]
    tl.plots.images(
        [pets.train.raw(0), *(other.raw(0) for other in others)],
        ["trained on", *STYLES],
        title="One style to train on, three that are new",
    )

# %% tags=["nbval-ignore-output"]
if MINI:
    away = stored.only(data="unseen styles")
    kept = away.difference("statistics kept", "fine-tuned")
    found = "is" if kept.mean > kept.margin else "is not clearly"
    (away.only(way="statistics kept") + away.only(way="fine-tuned")).plot(
        measured="accuracy on unseen styles",
        chance=0.5,
        title=f"Keeping the statistics {found} better on unseen styles",
    )
    kept_guess.compare(f"kept minus moving, unseen styles: {kept}")
    for way in settings:
        if way != "fine-tuned":
            print(f"{way}, minus fine-tuned")
            print("    at home:", home.difference(way, "fine-tuned"))
            print("    unseen: ", away.difference(way, "fine-tuned"))

# %% [markdown]
# In these stored runs, keeping statistics, scale and shift, at a lower rate, shows no difference; one within the margin may
# exist. On unseen styles, falling rates did worse. Their head's rate was three times as high, so the late stages,
# with most of the parameters, trained faster than in plain fine-tuning. That may be the reason, or chance among so many differences. The frozen backbone, which lost at home, is not shown to lose on unseen styles.
#
# ## What the network forgets
#
# A network that serves two tasks is fine-tuned for one of them. What happens to the other? First, fit a head for kinds of
# land use on the pre-trained features. Then fine-tune the backbone on pets.

# %%
head_guess = tl.guess(
    "How does the old head do after fine-tuning for pets?",
    ["as before", "worse", "no better than guessing"],
)

# %% tags=["nbval-ignore-output"]
land = tl.data.load("landuse", model=backbone, train=200).plain()
old_x = tl.features.extract(backbone, land.train)
land_head = tl.features.fit_probe(old_x)
tuned, _ = ways["fine-tuned"].fit(pets, 100, runtime.seed)

before = land_head.evaluate(tl.features.extract(backbone, land.val))
after_val = tl.features.extract(tuned, land.val)
after = land_head.evaluate(after_val)
refit = tl.features.fit_probe(tl.features.extract(tuned, land.train))
again = refit.evaluate(after_val)
print(f"guessing: {1 / len(land.classes):.2f}")
print(f"old head, old backbone:   {before}")
print(f"old head, tuned backbone: {after}")
print(f"new head, tuned backbone: {again}")
head_guess.compare(f"from {before.accuracy:.2f} to {after.accuracy:.2f}")
if MINI:
    tl.claim(
        "after fine-tuning, the head of the other task is worse",
        after.accuracy < before.accuracy - 0.1,
        f"{after.accuracy - before.accuracy:+.3f}",
    )

# %% [markdown]
# This is called **catastrophic forgetting**. Compare the three accuracies: what a newly fitted head wins back
# was only moved, not lost. It needs the old task's images, though. A frozen backbone forgets nothing.
#
# ## Your own images
#
# `tl.recipes.fine_tune` fits a probe, then trains all layers, with falling rates and a schedule. It keeps the epoch that is
# best on the validation set, or the probe where no epoch is better. The falling rates are a habit: above, they showed no gain at
# home. Set `FOLDER` to a folder with one subfolder per class. The test set is read once, here.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"

place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=backbone)
model = tl.models.create(BACKBONE, len(mine.classes), weights=WEIGHTS).to(
    runtime.device
)
result = tl.recipes.fine_tune(model, mine, epochs=8, seed=runtime.seed)
print(f"validation: {result.val}\ntest, once: {result.test}")
print(result.note)

# %% tags=["nbval-ignore-output"]
file = Path("runs") / "my-model.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
image = mine.test.sources[0]
answer = tl.predict.predict_files(loaded, about["classes"], [image])[0]
true = mine.classes[mine.test.labels[0]]
tl.plots.images(
    [mine.test.raw(0)],
    [f"{true}\nanswer: {answer.label}, {answer.probability:.2f}"],
    title="One test image",
)

# %% [markdown]
# ## Take-away
#
# - On toy pets in the style trained on, training all layers beats training the head alone, already with few images. Elsewhere,
#   measure it.
# - At home, these runs show no gain from any refinement of fine-tuning: measure before you add one.
# - What you unfreeze has to be in the optimizer: extend it, and check with the doctor.
# - Fine-tuning forgets: a head of another task fits worse.
#
# <details><summary>You unfreeze a stage, and its weights don't change. What is the first thing to look at?</summary>
#
# Whether the optimizer holds them. Setting `requires_grad` gives a parameter gradients, but only an optimizer changes it.
# </details>
#
# <details><summary>Your loss jumps when a new phase starts. Is something broken?</summary>
#
# Not necessarily. New parameters take their first steps without moments, and batch norm may begin to move. Lower rates or a
# warm-up can make the jump smaller.
# </details>
#
# <details><summary>You fine-tune with two images per batch. What about batch norm?</summary>
#
# Statistics of two images are mostly noise. Freeze the batch norms and keep them in evaluation mode, so that the pre-trained
# statistics are used.
# </details>
#
# **Read on:** [Howard and Ruder, *ULMFiT*](https://arxiv.org/abs/1801.06146), for discriminative rates and gradual
# unfreezing; [Kumar and others, *Fine-tuning can distort pretrained features*](https://arxiv.org/abs/2202.10054). Next:
# 3.3b, learning rates over time.
