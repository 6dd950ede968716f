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
# # 3.2 Feature extraction
#
# You have a folder of images and no time to train a large network. Somebody else has trained one, on other images.
# In this lesson you keep that network as it is, and train a small classifier on top of it.
#
# **You will be able to** freeze a network and count what still trains, spot the part of a frozen network that changes
# all the same, train on a folder of your own, and save time by computing features once.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 0.

# %%
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 100 or more

backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS).to(runtime.device)
pets = tl.data.load(DATA, model=backbone, train=LIMIT)
tl.plots.images(
    [pets.train.raw(i) for i in (0, 1, -1, -2, 2)],
    [pets.classes[pets.train.labels[i]] for i in (0, 1, -1, -2, 2)],
    columns=5,
    title="Cats and dogs differ in shape; colour, view and light vary",
)

# %% [markdown]
# On a laptop these are **toy pets**, drawn by this course's own 3-D renderer. With a GPU they are images of real cats and
# dogs.
#
# ## A first result
#
# A network for images has two parts. The **backbone** turns an image into a list of numbers, its **features**. The
# **head**, the last layer, turns features into one score per class. The toy pets' backbone was
# trained on Tiny ImageNet: small images of many kinds of things, real cats and dogs among them, but none of these toys. We
# keep it, and replace only the head.

# %%
right_guess = tl.guess(
    "A hundred training images, a backbone that was trained on others: "
    "how many validation images will be right?",
    [
        "about half",
        "about two of three",
        "about three of four",
        "nine of ten",
    ],
)

# %% tags=["nbval-ignore-output"]
import copy

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

few = pets.plain().take(train=100, seed=runtime.seed)
body = copy.deepcopy(backbone).eval().requires_grad_(False)
body.set_submodule(tl.models.head_name(body), nn.Identity())
x, val_x = [], []
with torch.no_grad():
    for part, found in ((few.train, x), (few.val, val_x)):
        for images, _ in torch.utils.data.DataLoader(part, batch_size=50):
            found.append(body(images.to(runtime.device)).cpu())
x, val_x = torch.cat(x), torch.cat(val_x)
classifier = LogisticRegression(max_iter=1000).fit(x, few.train.labels)
right = classifier.score(val_x, few.val.labels)
right_guess.compare(f"{right:.0%} of {len(val_x)} images are right")
same = torch.allclose(
    x, tl.features.extract(backbone, few.train).x, atol=1e-4
)
print("`tl.features.extract` gives the same features:", same)

# %% [markdown]
# No network was trained. A logistic regression on features is called a **linear probe**. `tl.features.fit_probe` fits one
# and chooses its penalty. One run with few images says little: further down, we repeat it with other images.
#
# ## What is frozen, and what is learned
#
# $$\min_\theta \; \frac{1}{N} \sum_{i=1}^{N} \ell\big(f_\theta(\phi_w(x_i)),\, y_i\big)$$
#
# The backbone $\phi$ with its pre-trained weights $w$ turns image $x_i$ into features. The head $f$ with weights $\theta$
# turns these into scores, and $\ell$ is the loss against the label $y_i$. The mean over all $N$ training images is
# minimised over $\theta$ alone: $w$ is **frozen**.
#
# ### Example 1: freeze ResNet-50
#
# In PyTorch, a parameter is frozen when its `requires_grad` is `False`. `tl.models.freeze` does it for many architectures,
# and `tl.models.summary` counts by **stage**: a group of layers that you freeze or unfreeze together. Counting needs no
# pre-trained weights, so none are loaded. You will meet the table's last column in the trap.

# %%
share_guess = tl.guess(
    "ResNet-50 with a new head for two classes: "
    "what share of its parameters still trains?",
    [
        "about a third",
        "about one in a hundred",
        "less than one in a thousand",
    ],
)

# %%
import torchvision

network = torchvision.models.resnet50(weights=None)
old_total = sum(p.numel() for p in network.parameters())
for parameter in network.parameters():
    parameter.requires_grad = False
network.fc = nn.Linear(network.fc.in_features, 2)  # a new layer trains
total = sum(p.numel() for p in network.parameters())
trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
share_guess.compare(f"{trainable:,} of {total:,}: {trainable / total:.3%}")
same = tl.models.freeze(tl.models.create("resnet50", 2, weights=None))
tl.models.summary(same)

# %% [markdown]
# **From the chapter.** Its example prints three counts for this network. All three are off, for two reasons.

# %%
CHAPTER = {
    "parameters": 25_557_032,
    "frozen": 25_552_934,
    "convolutions": 50,
}
layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
counted = dict(
    zip(CHAPTER, (total, total - trainable, len(layers)), strict=True)
)
for name in CHAPTER:
    print(
        f"{name:13}chapter {CHAPTER[name]:>10,}, count {counted[name]:>10,}"
    )
tl.claim(
    "the chapter's total is that of the network with its old head",
    old_total == CHAPTER["parameters"] != total,
    f"{old_total:,}",
)

# %% [markdown]
# The old head had an output for each of ImageNet's classes, and it's gone. The name ResNet-50 counts the convolutions on
# the main path and the last linear layer, but not those in the shortcuts.
#
# ### Your turn
#
# Freeze torchvision's ResNet-18 and give it a head for five classes. Then run the check.

# %%
answer = ...  # a torchvision.models.resnet18 with its head replaced
tl.check("3.2/freeze", answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer = torchvision.models.resnet18(weights=None).requires_grad_(False)
# answer.fc = nn.Linear(answer.fc.in_features, 5)
# ```
# </details>
#
# ## The trap: training mode
#
# You freeze the backbone and train the head in the loop that most tutorials have. The **doctor**, `tl.examine`, looks at a
# model and at what trains it. On its second look it also sees what has changed since the first.

# %%
moved_guess = tl.guess(
    "You train the head for one epoch in a usual loop. "
    "What changes in the frozen backbone?",
    ["nothing", "the batch norms' statistics", "its weights"],
)


# %% tags=["nbval-ignore-output"]
def usual_epoch(model, loader, lr, device):
    """Train for one epoch as most tutorials do."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    for images, labels in loader:
        scores = model(images.to(device))
        loss = nn.functional.cross_entropy(scores, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


torch.manual_seed(runtime.seed)
fresh = tl.models.create(BACKBONE, len(pets.classes), weights=WEIGHTS)
fresh = tl.models.freeze(fresh.to(runtime.device))
trained = copy.deepcopy(fresh)
tl.examine(trained)  # the doctor's first look: it remembers the weights
usual_epoch(trained, few.loaders(16, seed=0).train, 0.01, runtime.device)
report = tl.examine(trained)

# %% tags=["nbval-ignore-output"]
before, head = fresh.state_dict(), tl.models.head_name(trained)
below = {n: t for n, t in trained.state_dict().items() if head not in n}
moved = [name for name, t in below.items() if not t.equal(before[name])]
moved_guess.compare(f"{len(moved)} tensors: {', '.join(moved[:2])}")
norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
found = report.named("frozen-statistics-move")
tl.claim(
    "the doctor finds that frozen statistics changed, if there are any",
    any(one.severity == "wrong" for one in found) == bool(norms),
    f"{len(norms)} batch norms",
)
report


# %% [markdown]
# **Batch norm** keeps a learned scale and shift, which are parameters, and three **buffers**: a running mean and variance of
# what passes through it, and a count of batches. Freezing stops gradients, and buffers have none. In training mode, every forward pass
# updates them.
#
# What does it cost? Take a head that was fitted before, and give it the features from after the epoch. That is what
# happens to a stored head, to cached features, and to a backbone that two tasks share. The head that trains in this loop may
# lose, too; that isn't measured here.


# %% tags=["nbval-ignore-output"]
def stored_head(pets, model, seed, device):
    """Return how one epoch changes the accuracy of a stored head."""
    few = pets.plain().take(train=100, seed=seed)
    probe = tl.features.fit_probe(tl.features.extract(model, few.train))
    before = probe.evaluate(tl.features.extract(model, few.val))
    usual_epoch(model, few.loaders(16, seed=seed).train, 0.01, device)
    after = probe.evaluate(tl.features.extract(model, few.val))
    return after.accuracy - before.accuracy


# %% tags=["nbval-ignore-output"]
cost = {}
for name, prepare in {
    "usual": nn.Module.train,
    "kept": tl.models.keep_frozen,
}.items():
    changes = []
    for seed in runtime.seeds(10 if name == "usual" else 3):
        copied = prepare(copy.deepcopy(fresh))
        changes.append(stored_head(pets, copied, seed, runtime.device))
    cost[name] = tl.experiments.Difference(tuple(changes))
print(f"usual: change of accuracy {cost['usual']}")
same = set(cost["kept"].values) == {0}
print("with `keep_frozen`, unchanged in every run:", same)
if norms and runtime.profile == "mini":
    worse = cost["usual"].mean < 0 and cost["usual"].clear
    tl.claim("in the usual loop, it gets worse", worse, str(cost["usual"]))

# %% [markdown]
# The rule: **after every `model.train()`, put what is frozen back into evaluation mode.** `tl.models.train_mode` does
# that; so does `tl.train.fit`. For a loop of your own, `tl.models.keep_frozen(model)` does it from then on.
#
# ### Your turn
#
# Write it yourself, without the package: a function that puts a model into training mode, and every batch norm whose
# parameters are all frozen into evaluation mode.

# %%
answer = ...  # a function: def training_mode(model): ...
tl.check("3.2/training-mode", answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer(model):
#     model.train()
#     for module in model.modules():
#         frozen = not any(p.requires_grad for p in module.parameters())
#         if isinstance(module, nn.BatchNorm2d) and frozen:
#             module.eval()
# ```
# </details>
#
# ## Example 2: a folder of your own
#
# Set `FOLDER` to a folder with one subfolder per class: this section and the last one then run on your images. Without one, we write
# some pets to disk. Images that nobody has split are split for you into training, validation and test set.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"
place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=backbone)
mine

# %% [markdown]
# **Augmentation** shows the network another version of each training image in every epoch. It must keep the label true: a
# mirrored cat is a cat. And it belongs to the training set alone, because you want to measure on images as they are.
#
# **From the chapter.** It builds one data set with the training transform and splits that with `random_split`. Look at
# what happens to a validation image that is read several times.

# %% tags=["nbval-ignore-output"]
from torch.utils.data import random_split

torch.manual_seed(runtime.seed)
_, chapter_val = random_split(mine.train, [0.8, 0.2])
first = chapter_val.indices[0]
images = [chapter_val[0][0] for _ in range(4)]
images += [mine.plain().train[first][0] for _ in range(4)]
tl.plots.images(
    [mine.preprocessing.undo(image) for image in images],
    ["split off"] * 4 + ["as it should be"] * 4,
    columns=4,
    title="After random_split, a validation image differs at each reading",
)

# %% [markdown]
# ### The loop
#
# Here is all that training does. The head learns, and the epoch that does best on the validation set is kept. Everything
# the function uses is an argument, so it can't pick up an optimizer from another cell. Below it, `tl.train.fit` does the
# same from the same start. A stopped run of it can go on.


# %%
def train(model, loaders, optimizer, epochs, device):
    """Train; leave the model with the weights of its best epoch."""
    accuracies, best = [], None
    for _ in range(epochs):
        tl.models.train_mode(model)
        for images, labels in loaders.train:
            scores = model(images.to(device))
            loss = nn.functional.cross_entropy(scores, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracies.append(tl.train.evaluate(model, loaders.val).accuracy)
        if accuracies[-1] == max(accuracies):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return accuracies


# %% tags=["nbval-ignore-output"]
def new_start(images, seed, device):
    """Return a frozen model with a new head, its loaders, an optimizer."""
    torch.manual_seed(seed)
    model = tl.models.create(BACKBONE, len(images.classes), weights=WEIGHTS)
    tl.models.freeze(model.to(device))
    head = tl.models.head(model)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    return model, images.loaders(16, seed=seed), optimizer


start = new_start(mine, runtime.seed, runtime.device)
accuracies = train(*start, 8, runtime.device)
my_model, *others = new_start(mine, runtime.seed, runtime.device)
history = tl.train.fit(my_model, *others, epochs=8, precision="float32")
tl.plots.learning_curves(history, title="A new head learns in a few epochs")
pairs = zip(accuracies, history.column("val_accuracy"), strict=True)
gap = max(abs(a - b) for a, b in pairs)
agree = gap < 1.5 / len(mine.val)
tl.claim("in every epoch, both loops agree within one image", agree)

# %% [markdown]
# Where the training curve is ahead and the validation loss rises again, the head **overfits**: it fits its training images
# better than new ones. In other runs validation can be ahead, with nothing broken: training images are augmented, and each is
# measured before its epoch has ended. With so few validation images, the best epoch is partly luck.
#
# ## Compute once, train many times
#
# A frozen backbone in evaluation mode gives the same features in every epoch, unless images are augmented. So compute them once, and train
# the head on them.

# %%
EPOCHS = 10
speed_guess = tl.guess(
    f"How much faster are {EPOCHS} epochs if features are computed once?",
    ["about as fast", "2 to 4 times", "more than 4 times"],
)


# %% tags=["nbval-ignore-output"]
def train_head(give_features, x, y, epochs):
    """Train a new head on the features of each batch."""
    torch.manual_seed(0)
    head = nn.LazyLinear(2).to(x.device)
    head(give_features(x[:1]))  # its first call gives it its size
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(32):
            scores = head(give_features(x[rows]))
            loss = nn.functional.cross_entropy(scores, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.weight.detach().cpu()  # waits until a GPU has finished


# %% tags=["nbval-ignore-output"]
import time

pixels = torch.stack([image for image, _ in few.train]).to(runtime.device)
labels = few.train.labels.to(runtime.device)
start = time.perf_counter()
every_epoch = train_head(body, pixels, labels, EPOCHS)
slow = time.perf_counter() - start
start = time.perf_counter()
features = body(pixels)
once = train_head(nn.Identity(), features, labels, EPOCHS)
fast = time.perf_counter() - start
speed_guess.compare(
    f"{slow:.1f} s against {fast:.1f} s, {slow / fast:.1f} times as fast"
)
gap = (every_epoch - once).abs().max().item()
print(f"the same head: its weights differ by {gap:.0e} at most")
tl.claim(
    "computed once, features are over four times as fast", slow > 4 * fast
)

# %% [markdown]
# ## How many images does it take?
#
# Now compare a head on frozen features with the same architecture trained from scratch (random weights). The number of training images is
# studied. Tuned: the learning rate from scratch, on the validation set among three, with other seeds, with few toy pets, where it
# hardly learns (`full` takes this rate); and the probe's penalty, by cross-validation on the training images. Fixed: the architecture, the
# drawn images (augmented for the new network, not for the probe) and the passes from scratch. This shows what a short training can
# do.
#
# Training from scratch is slow. The dots are **stored runs** that came with the package, except in `full`. Diamonds are
# runs that your machine makes now, with other draws of the images. The draws overlap and the validation images stay the same, so
# intervals of new experiments would be wider. The differences below are of the stored runs, pair by pair with the same seed.

# %%
scratch_guess = tl.guess(
    "With 30 passes (epochs), from how many images on is training "
    "from scratch as good?",
    ["80", "320", "800", "more than 800"],
)

# %% tags=["nbval-ignore-output"]
MINI = runtime.profile == "mini"
SIZES = [n for n in (20, 80, 320, 800) if n <= len(pets.train)]
probe = tl.experiments.Probe(backbone)
new = {"lr": 0.0003, "passes": 30, "weights": None, "model": BACKBONE}
scratch = tl.experiments.Trained(**new)
ways = {"scratch": scratch, "frozen": probe}
now = SIZES[:1] if MINI else SIZES
live = tl.experiments.compare(
    ways, pets, sizes=now, seeds=runtime.seeds(1 if MINI else 3)
)
more = tl.experiments.compare(
    {"frozen": probe}, pets, sizes=SIZES[1:], seeds=runtime.seeds(1)
)
live = live + more if MINI else live
stored = tl.experiments.stored("map").only(data="toypets") if MINI else live
(stored.only(way="scratch") + stored.only(way="frozen")).plot(
    live=live,
    chance=1 / len(pets.classes),
    title="After 30 passes, a new network is far behind a frozen backbone",
)

# %% tags=["nbval-ignore-output"]
ahead = {n: stored.difference("frozen", "scratch", n) for n in SIZES}
for n, lead in ahead.items():
    print(f"{n:3} images: frozen minus scratch {lead}")
behind = [n for n, lead in ahead.items() if lead.mean <= lead.margin]
scratch_guess.compare(behind or f"more than {max(SIZES)}")
if MINI:
    least = min(lead.mean - lead.margin for lead in ahead.values())
    tl.claim(
        "at every size, frozen features lead",
        least > 0,
        f"lower end of the smallest lead {least:+.2f}",
    )
    agree = live.agree_with(stored)
    print("live runs in the range that five runs predict (99 %):", agree)

# %% [markdown]
# The lead grows at first because the probe improves while the new network stays near chance. It learns only with the most
# images. A live run may lie outside the dots: five runs predict only a wide range.
#
# When is a frozen backbone the right choice? Against a new network that trains this long, on these images: at every size
# tried. **Fine-tuning** trains the backbone, too (3.3), and is better in most cells of the map in 3.1. A probe takes
# seconds, so fit one first. Then fine-tune, and keep that only if it's better on your validation set.
#
# ## The test set, once, and something to take home
#
# Your head from Example 2 was chosen on the validation set: the best of several epochs, so part of its accuracy there is
# luck. Images that no choice has seen show how good it is. The interval is the range of true accuracies that so many
# test images support.

# %% tags=["nbval-ignore-output"]
test = tl.train.evaluate(my_model, mine.loaders().test)
print(f"validation, best epoch: {history.best.val_accuracy:.3f}")
print(f"test, once:             {test}")
file = Path("runs") / "my-head.safetensors"
tl.predict.save_checkpoint(file, my_model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
image = mine.test.sources[0]
answer = tl.predict.predict_files(loaded, about["classes"], [image])[0]
truth = mine.classes[mine.test.labels[0]]
sure = f"{answer.probability:.0%} sure"
print(f"{image.name}: truth {truth}, answer {answer.label}, {sure}")

# %% [markdown]
# The file holds weights, class names and preprocessing. With them, `predict_files` avoids three common
# mistakes between training and use: a model left in training mode, other preprocessing, classes in another order.
#
# ## Take-away
#
# - In evaluation mode and without augmentation, a frozen backbone gives an image the same features: compute them once.
# - Freezing parameters does not freeze batch norm: keep what is frozen in evaluation mode.
# - Augment the training set only; choose on the validation set; read the test set once.
# - On these images, a linear probe on frozen features is far ahead of a short training from scratch on the same images.
#
# <details><summary>You train a head in a usual loop. Why can yesterday's stored head fail on today's backbone?</summary>
#
# The loop calls `model.train()`. Batch norm then updates its statistics though no parameter of the backbone trains, and
# the features are no longer those that the head was fitted to.
# </details>
#
# <details><summary>You want augmentation and cached features. What are your choices?</summary>
#
# Cache the features of several augmented versions of each image, or give up one of the two. A single random version,
# kept for good, is no augmentation: `tl.features.extract` refuses it.
# </details>
#
# <details><summary>Your validation accuracy is higher than your test accuracy. Is something broken?</summary>
#
# Not by itself. The epoch was chosen because its validation accuracy was high, and part of that was luck.
# </details>
#
# **Read on:** [Kornblith and others, *Do better ImageNet models transfer better?*](https://arxiv.org/abs/1805.08974);
# [Yosinski and others, *How transferable are features in deep neural networks?*](https://arxiv.org/abs/1411.1792).
# Next: 3.3, fine-tuning.
