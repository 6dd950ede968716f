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
# You have a folder of images and no time to train a large network.
# Somebody else has already trained one, on other images.
# In this lesson you keep that network as it is, and train a small classifier on top of it.
#
# **You will be able to** freeze a backbone and count what still trains; train on a folder of your own;
# find the part of a frozen network that moves all the same; compute each image's features once instead of in
# every epoch; and tell when feature extraction is the right choice.
#
# **Time:** two or three minutes on a laptop without a network. **You need:** tensors, `nn.Module`, a training loop.

# %%
import copy
import inspect
import tempfile
import time
from pathlib import Path
from statistics import fmean

import torch
import torchvision
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, random_split

# %% [markdown]
# The same notebook runs small on a laptop (`mini`) and at full size on a GPU (`full`). This is all that differs.

# %% tags=["nbval-ignore-output"]
SIZE = {
    "mini": {
        "data": "toypets",
        "backbone": "tl_resnet",
        "passes": {20: 160, 200: 960, 800: 960},
    },
    "full": {
        "data": "dogs-vs-cats",
        "backbone": "resnet50",
        "passes": {20: 3200, 200: 6400, 800: 25600},
    },
}[runtime.profile]
SEEDS = (0, 1, 2)
PRECISION = "bfloat16" if runtime.bf16 else "float32"
backbone = tl.models.create(SIZE["backbone"], num_classes=2).to(runtime.device)
pets = tl.data.load(SIZE["data"], model=backbone)
pets

# %% [markdown]
# ## The images
#
# In `mini` these are **toy pets**: cats and dogs drawn by this course's own 3-D renderer.
# Colour, light, view and background are dealt out to both kinds alike. Only the shape tells a cat from a dog.

# %%
shown = [
    i for label in (0, 1) for i in (pets.test.labels == label).nonzero().flatten()[:8].tolist()
]
tl.plots.images(
    [pets.test.raw(i) for i in shown],
    [pets.classes[pets.test.labels[i]] for i in shown],
    title="Cats and dogs differ in shape, and in nothing else",
)

# %% [markdown]
# ## A first result
#
# The backbone was trained on images of many kinds of things. It has never seen these.
# For each image we take the numbers that it would pass to its own classifier: the image's **features**.
# On these we fit a logistic regression. That is called a **linear probe**.
#
# **Predict:** the probe gets few training images; the cell says how many. How many of the test images will it get
# right: half, which is guessing; two thirds; more?

# %% tags=["nbval-ignore-output"]
few = pets.take(train=100, test=800)
start = time.perf_counter()
features = tl.features.extract_splits(backbone, few, cache=False)
probe = tl.features.fit_probe(features.train)
first = probe.evaluate(features.test)
print(
    f"features: {tuple(features.train.x.shape)} for training, {tuple(features.test.x.shape)} for testing"
)
print(f"test accuracy: {first}")
print(f"all of it took {time.perf_counter() - start:.1f} s")
tl.claim(
    f"{len(few.train)} images and a frozen backbone are far better than guessing",
    first.interval[0] > 0.6,
    f"{first.accuracy:.3f}, lower end of the interval {first.interval[0]:.3f}",
)

# %% [markdown]
# No network was trained here. The interval is what the number of test images allows:
# another draw of test images could give any accuracy in it. Which images does the probe get wrong?

# %% tags=["nbval-ignore-output"]
worst = first.worst(8).tolist()
tl.plots.images(
    [few.test.raw(i) for i in worst],
    [f"{pets.classes[first.predicted[i]]}? {first.probabilities[i].max():.0%}" for i in worst],
    title="The errors that the probe is surest of",
)

# %% [markdown]
# ## What is frozen, and what is learnt
#
# $$\hat{y} = f_\theta\big(\phi_w(x)\big) \qquad\qquad \min_\theta \; \frac{1}{N} \sum_{i=1}^{N} \ell\big(f_\theta(\phi_w(x_i)),\, y_i\big)$$
#
# An image $x$ goes through the **backbone** $\phi$ with its pre-trained weights $w$. Out come the features $\phi_w(x)$.
# The new **head** $f$ with weights $\theta$ turns them into one number for each class, $\hat{y}$.
# Training minimises the mean loss $\ell$ over the $N$ training images and their labels $y_i$.
# The minimum is sought over $\theta$ alone: $w$ is **frozen**.
#
# Two things follow. The features of an image never change, so they need computing only once.
# And with a linear head and cross-entropy the problem is convex: there are no bad local minima to get stuck in.
#
# ### Example 1: freeze ResNet-50
#
# Here it is in plain PyTorch. Counting needs the architecture only, so no weights are loaded.
#
# **Predict:** what share of the parameters is left to train?

# %%
network = torchvision.models.resnet50(weights=None)
with_old_head = sum(p.numel() for p in network.parameters())

for parameter in network.parameters():
    parameter.requires_grad = False
network.fc = nn.Linear(network.fc.in_features, 2)  # a new layer is trainable

total = sum(p.numel() for p in network.parameters())
trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
print(f"features:  {network.fc.in_features:>10,}")
print(f"total:     {total:>10,}")
print(f"trainable: {trainable:>10,}  ({trainable / total:.3%})")
print(f"frozen:    {total - trainable:>10,}")
tl.claim(
    "the new head is all that trains",
    trainable == network.fc.in_features * 2 + 2 and trainable / total < 0.001,
    f"{trainable:,} of {total:,}",
)

# %% [markdown]
# The package does the same in one line, for many architectures, and keeps the count by **stage**:
# the groups of layers that one freezes and unfreezes together, from the stem to the head.

# %%
same = tl.models.freeze(tl.models.create("resnet50", num_classes=2, weights=None))
tl.models.summary(same)

# %%
tl.claim(
    "the loop written out and `freeze` leave the same parameters to train",
    {n for n, p in network.named_parameters() if p.requires_grad}
    == {n for n, p in same.named_parameters() if p.requires_grad},
)

# %% [markdown]
# **From the chapter.** Its example prints a total, a number of frozen parameters and a number of convolutions.
# Compare them with what you can count yourself.

# %%
CHAPTER = {"total": 25_557_032, "frozen": 25_552_934, "convolutions": 50}
convolutions = [
    name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
]
shortcuts = [name for name in convolutions if "downsample" in name]
counted = {"total": total, "frozen": total - trainable, "convolutions": len(convolutions)}
for name, printed in CHAPTER.items():
    print(
        f"{name:13} chapter {printed:>10,}   counted {counted[name]:>10,}   difference {printed - counted[name]:>10,}"
    )
print(
    f"the network with its old head: {with_old_head:,}; convolutions in shortcuts: {len(shortcuts)}"
)
tl.claim(
    "the chapter counts a head that is no longer there",
    CHAPTER["total"] == with_old_head != total,
)
tl.claim(
    "the name ResNet-50 counts the main path and the last linear layer, not the shortcuts",
    len(convolutions) - len(shortcuts) + 1 == CHAPTER["convolutions"],
    f"{len(convolutions)} convolutions, {len(shortcuts)} of them in shortcuts",
)

# %% [markdown]
# ## The trap: a frozen network that moves
#
# **Batch norm** keeps two things: a learnt scale and shift, which are parameters, and the running mean and variance
# of what flows through it, which are **buffers**. `requires_grad = False` freezes parameters. Buffers have no gradient;
# `model.train()` lets every forward pass move them.
#
# **Predict:** you train the head for one epoch with a plain loop. How many tensors of the frozen body change?


# %% tags=["nbval-ignore-output"]
def plain_epoch(model, loader, optimizer, device):
    """One epoch as most tutorials write it."""
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images.to(device)), labels.to(device)).backward()
        optimizer.step()


def moved(model, before):
    """Name what differs from before, the head aside."""
    return [
        n
        for n, t in model.state_dict().items()
        if not n.startswith("fc.") and not torch.equal(t, before[n])
    ]


model = tl.models.freeze(copy.deepcopy(backbone))
before = copy.deepcopy(model.state_dict())
tl.examine(model)  # the doctor's first look: it remembers the weights
loader = few.plain().loaders(batch_size=16, seed=0).train
plain_epoch(model, loader, torch.optim.SGD(model.fc.parameters(), lr=0.01), runtime.device)
changed = moved(model, before)
parameters = dict(model.named_parameters())
print(
    f"changed tensors in the frozen body: {len(changed)}, of them parameters: {sum(n in parameters for n in changed)}"
)
print("for example:", ", ".join(changed[:3]))

# %% tags=["nbval-ignore-output"]
batch_norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
tl.claim(
    "a plain loop moves every batch-norm buffer of a frozen body, and no parameter",
    len(changed) == 3 * len(batch_norms) and not any(n in parameters for n in changed),
    f"{len(changed)} tensors, {len(batch_norms)} batch norms with 3 buffers each",
)
drifted = tl.features.extract(model, few.plain().test, cache=False)
distance = (drifted.x - features.test.x).norm(dim=1) / features.test.x.norm(dim=1)
after = probe.evaluate(drifted)
print(
    f"features of the test images moved by {distance.mean():.0%} of their length, after one epoch"
)
print(f"the probe from above, on the moved features: {after}")
print(f"before: {first}")

# %% [markdown]
# You need not know all this to notice. The **doctor**, `tl.examine`, looks at a model and what trains it.
# At its second look it also sees what has moved since the first.

# %% tags=["nbval-ignore-output"]
report = tl.examine(model)
tl.claim(
    "the doctor finds that frozen statistics moved",
    any(finding.severity == "wrong" for finding in report.named("frozen-statistics-move")),
)
report

# %% [markdown]
# A head fits the features that it was trained on. When the features drift, the head that you have stored,
# the features that you have cached and the backbone that you share with a second task no longer fit.
#
# The repair is one rule: **after every `model.train()`, put what is frozen back into evaluation mode.**
# `tl.models.train_mode` does that, and `tl.train.fit` calls it. For a loop of your own that calls `model.train()`,
# `tl.models.keep_frozen(model)` does it once and for all.

# %% tags=["nbval-ignore-output"]
model = tl.models.freeze(copy.deepcopy(backbone))
tl.models.train_mode(model)
print(
    "batch norms in training mode:",
    sum(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)),
)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
tl.train.fit(model, few.plain().loaders(batch_size=16, seed=0), optimizer, epochs=1)
tl.claim(
    "`tl.train.fit` leaves the frozen body as it was, to the bit", moved(model, before) == []
)

# %% [markdown]
# What does the trap cost in accuracy? We train the head both ways, with each of the seeds.


# %% tags=["nbval-ignore-output"]
def head_accuracy(frozen_bn, seed):
    """Train a new head for a few epochs; return its accuracy on the test images."""
    model = tl.models.freeze(copy.deepcopy(backbone))
    torch.manual_seed(seed)
    model.fc.reset_parameters()
    loaders = (
        pets.plain()
        .take(train=100, val=20, test=300, seed=seed)
        .loaders(batch_size=8, seed=seed)
    )
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=3e-3)
    tl.train.fit(model, loaders, optimizer, epochs=2, precision=PRECISION, frozen_bn=frozen_bn)
    return tl.train.evaluate(model, loaders.test, precision=PRECISION).accuracy


cost = {mode: [head_accuracy(mode, seed) for seed in SEEDS] for mode in ("eval", "train")}
differences = [kept - moving for kept, moving in zip(cost["eval"], cost["train"], strict=True)]
mean, error = tl.evaluation.mean_and_error(differences)
print("statistics kept:  ", *(f"{a:.3f}" for a in cost["eval"]))
print("statistics moving:", *(f"{a:.3f}" for a in cost["train"]))
verdict = (
    "larger than the noise"
    if abs(mean) > 2 * error
    else "no difference that these runs can show"
)
print(
    f"kept minus moving: {mean:+.3f} ± {error:.3f} (standard error over {len(SEEDS)} seeds): {verdict}"
)

# %% [markdown]
# Read the verdict that your run printed. The sure damage is the drift: you measured it above, to the bit.
# The damage to accuracy depends on how far the new images are from the old ones and on the batch size,
# and a few seeds may be too few to see it.
#
# ## Example 2: your own folder
#
# Most data comes as a folder with one subfolder a class. To have one, we write some of the images to disk.

# %% tags=["nbval-ignore-output"]
workshop = Path(tempfile.mkdtemp())
folder = tl.data.export_folder(pets.take(train=160, val=80, test=400), workshop / "my-pets")
for part in sorted(folder.iterdir()):
    print(
        f"my-pets/{part.name}:",
        {c.name: len(list(c.iterdir())) for c in sorted(part.iterdir())},
    )
mine = tl.data.from_folder(folder, model=backbone)
mine

# %% [markdown]
# **Augmentation** shows the network another version of each training image in every epoch: cropped, mirrored, scaled.
# It belongs to the training set only. And it must keep the label true: a mirrored cat is a cat.

# %%
torch.manual_seed(1)
original = mine.train.raw(3)
versions = [mine.preprocessing.undo(mine.train[3][0]) for _ in range(7)]
tl.plots.images(
    [original, *versions],
    ["original"] + ["as trained on"] * 7,
    title="One image, seven of its versions",
)

# %% [markdown]
# **From the chapter.** Its example builds one `ImageFolder` with the training transform and splits it with `random_split`.
# Then the validation images are augmented too: read one again, and it is another image.

# %%
augmented = torchvision.datasets.ImageFolder(
    folder / "train", transform=mine.preprocessing.training()
)
_, chapter_val = random_split(augmented, [0.8, 0.2], generator=torch.Generator().manual_seed(0))


def changing(dataset, n=20):
    """Count how many of the first n images differ between two readings."""
    return sum(not torch.equal(dataset[i][0], dataset[i][0]) for i in range(n))


torch.manual_seed(0)
print(
    f"chapter's validation set: {changing(chapter_val)} of 20 images change from reading to reading"
)
print(f"ours:                      {changing(mine.val)} of 20")
tl.claim("after `random_split` the validation set is augmented", changing(chapter_val) > 15)
tl.claim("our validation set is not", changing(mine.val) == 0)

# %% [markdown]
# It also types in the resize of an older recipe. Weights come with the preprocessing that they were trained for: ask them.

# %%
CHAPTER_RESIZE = 256
recommended = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
print(f"chapter: resize to {CHAPTER_RESIZE}; the weights say: {recommended.resize_size[0]}")
tl.claim(
    "the chapter's resize is not the weights' own", recommended.resize_size != [CHAPTER_RESIZE]
)

# %% [markdown]
# ### The loop
#
# All that training does is on this page. Everything that the function uses is an argument: no optimizer, loss or device
# is picked up from elsewhere in the notebook, as the chapter's loop does.


# %%
def train(model, loaders, optimizer, epochs):
    """Train a model; leave it with the weights that did best on the validation set."""
    device = next(model.parameters()).device
    best_accuracy, best_weights, accuracies = -1.0, None, []
    for _ in range(epochs):
        tl.models.train_mode(
            model
        )  # model.train(), with the frozen part left in evaluation mode
        for images, labels in loaders.train:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = [(model(x.to(device)).argmax(1).cpu() == y).float() for x, y in loaders.val]
        accuracies.append(torch.cat(right).mean().item())
        if accuracies[-1] > best_accuracy:
            best_accuracy, best_weights = accuracies[-1], copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return accuracies


# %% [markdown]
# `tl.train.fit` is the same loop, made for long runs. It keeps a history, saves itself, shares work among processes,
# and computes in a lower precision where that is faster. This is its core. Find the lines of the loop above in it.

# %%
core = inspect.getsource(tl.train.loop.loop)
print(core)
tl.claim("the core of `fit` fits on one page", core.count("\n") < 80)

# %% [markdown]
# We run both from the same start, with the same order of images.

# %% tags=["nbval-ignore-output"]
EPOCHS = 5


def fresh():
    """A frozen model with a new head and its optimizer, the same each time."""
    model = tl.models.freeze(copy.deepcopy(backbone))
    torch.manual_seed(0)
    model.fc.reset_parameters()
    return model, torch.optim.Adam(model.fc.parameters(), lr=3e-3)


written_out, optimizer = fresh()
accuracies = train(written_out, mine.loaders(batch_size=16, seed=0), optimizer, EPOCHS)
model, optimizer = fresh()
history = tl.train.fit(
    model, mine.loaders(batch_size=16, seed=0), optimizer, epochs=EPOCHS, precision="float32"
)
tl.plots.learning_curves(
    history, title="A new head on a frozen backbone learns within a few epochs"
)
tl.claim(
    "the loop on this page and `tl.train.fit` measure the same in every epoch",
    max(abs(a - b) for a, b in zip(accuracies, history.column("val_accuracy"), strict=True))
    < 0.03,
)

# %% [markdown]
# Now, and only now, the test set, once.

# %% tags=["nbval-ignore-output"]
test = tl.train.evaluate(model, mine.loaders().test)
print(
    f"validation, best of {EPOCHS} epochs: {history.best.val_accuracy:.3f} on {len(mine.val)} images"
)
print(f"test, once:                {test}")

# %% [markdown]
# **From the chapter.** It chooses the best epoch on the validation set and reports that very number.
# The best of several noisy numbers is too high on average. On cached features a head trains in an instant,
# so we can repeat the choice many times and look.


# %% tags=["nbval-ignore-output"]
def choose_and_report(seed, epochs=30):
    """Train a head on features, choose the epoch on a small validation set; return both accuracies."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(pool.x), generator=generator)
    train_rows, val_rows, test_rows = rows[:40], rows[40:80], rows[80:]
    torch.manual_seed(seed)
    head = nn.Linear(pool.x.shape[1], 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    reported = []
    for _ in range(epochs):
        loss = nn.functional.cross_entropy(head(pool.x[train_rows]), pool.y[train_rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = (head(pool.x).argmax(1) == pool.y).float()
        reported.append((right[val_rows].mean().item(), right[test_rows].mean().item()))
    return max(reported)


pool = features.test
optimism = [val - test for val, test in map(choose_and_report, range(100))]
mean, error = tl.evaluation.mean_and_error(optimism)
print(
    f"best validation accuracy minus test accuracy of that epoch: {mean:+.3f} ± {error:.3f} over {len(optimism)} runs"
)
tl.claim(
    "the accuracy that the best epoch was chosen by is too high",
    mean > 3 * error,
    f"{mean:+.3f} ± {error:.3f}",
)

# %% [markdown]
# ## Compute once, train many times
#
# A frozen backbone gives the same features in every epoch, unless the images are augmented.
# So compute them once, keep them, and train the head on the features.
#
# **Predict:** with as many epochs as in the cell below, how many times faster is that?

# %%
EPOCHS = 10
some = pets.plain().take(train=200, val=40, test=40)
x, y = torch.stack([image for image, _ in some.train]), some.train.labels


def train_head(give_features, inputs):
    """Train a new head by gradient descent on whatever `give_features` makes of a batch."""
    torch.manual_seed(0)
    head = nn.Linear(features.train.x.shape[1], 2).to(runtime.device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02, momentum=0.9)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(32):
            loss = nn.functional.cross_entropy(
                head(give_features(inputs[rows].to(runtime.device))), y[rows].to(runtime.device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.cpu()


# %% tags=["nbval-ignore-output"]
body = copy.deepcopy(backbone).eval().requires_grad_(False)
body.fc = nn.Identity()
start = time.perf_counter()
every_epoch = train_head(body, x)
slow = time.perf_counter() - start
start = time.perf_counter()
cached = body(x.to(runtime.device)).cpu()
once = train_head(nn.Identity(), cached)
fast = time.perf_counter() - start
tl.plots.bars(
    {"every epoch": [slow], "once": [fast]},
    xlabel=f"seconds for {EPOCHS} epochs of {len(y)} images",
    title="Features computed once save most of the time",
)

# %% tags=["nbval-ignore-output"]
gap = max(
    (a - b).abs().max().item()
    for a, b in zip(every_epoch.parameters(), once.parameters(), strict=True)
)
print(f"{slow:.2f} s against {fast:.2f} s: {slow / fast:.1f} times faster")
print(f"largest difference between the two heads: {gap:.1e}")
tl.claim(
    f"for {EPOCHS} epochs, computing features once is more than four times as fast",
    slow / fast > 4,
)
tl.claim("and it gives the same head", gap < 1e-3, f"{gap:.1e}")

# %% [markdown]
# `tl.features.extract` does this for any model. It keeps the features on disk under a key made of the backbone's weights,
# the images and the transform, so a second call reads instead of computing, and never reads something stale.
# When some stages train and those below are frozen, `tl.features.precompute` keeps what the frozen part gives,
# and the rest trains on that.
#
# ## Look at the features
#
# A image is a long row of numbers, and so are its features. A **principal component analysis** finds the directions in
# which the rows differ most. What differs most need not be the animal: light, view and background differ too.
# So we take the first few directions, and ask in which of them the cats lie apart from the dogs.
#
# **Predict:** for pixels and for features, how far apart will the two classes lie in the best of these directions?

# %% tags=["nbval-ignore-output"]
pixels = torch.stack([image.flatten() for image, _ in few.plain().test])
flat = {
    name: torch.from_numpy(PCA(6, svd_solver="randomized", random_state=0).fit_transform(rows))
    for name, rows in (("pixels", pixels), ("features", features.test.x))
}


def apart(points):
    """Distance of the classes' means along each direction, in standard deviations, `(6,)`."""
    cats, dogs = (points[features.test.y == label].mean(0) for label in (0, 1))
    return (cats - dogs).abs() / points.std(0)


best_two = apart(flat["features"]).topk(2).indices
tl.plots.embedding(
    flat["features"][:, best_two],
    features.test.y,
    pets.classes,
    title="Features begin to part cats from dogs before any training",
)
for name, points in flat.items():
    print(f"{name:8} apart along each direction:", *(f"{d:.2f}" for d in apart(points)))
furthest = {name: apart(points).max().item() for name, points in flat.items()}
tl.claim(
    "in the best direction of the features the classes lie further apart than in that of the pixels",
    furthest["features"] > furthest["pixels"] + 0.2,
    f"{furthest['features']:.2f} against {furthest['pixels']:.2f} standard deviations",
)

# %% [markdown]
# Two directions out of many show only part of it. A question that uses all of them:
# do the images that lie nearest to a image show the same animal? First by pixels, then by features.


# %% tags=["nbval-ignore-output"]
def neighbours(rows, k=3):
    """Return the k nearest other rows of each row, by cosine, `(N, k)`."""
    unit = nn.functional.normalize(rows - rows.mean(0), dim=1)
    correlation = unit @ unit.T
    return correlation.fill_diagonal_(-2).topk(k).indices


def agreement(nearest):
    """Share of neighbours with the image's own class."""
    return (features.test.y[nearest] == features.test.y[:, None]).float().mean().item()


by_pixels, by_features = neighbours(pixels), neighbours(features.test.x)
queries = [
    i
    for label in (0, 1)
    for i in (features.test.y == label).nonzero().flatten()[20:21].tolist()
]
rows = [[q, *nearest[q].tolist()] for q in queries for nearest in (by_pixels, by_features)]
tl.plots.images(
    [few.test.raw(i) for row in rows for i in row],
    [
        text
        for _ in queries
        for kind in ("pixels", "features")
        for text in ["query", *[kind] * 3]
    ],
    columns=4,
    title="Nearest neighbours, by pixels and by features",
)

# %% tags=["nbval-ignore-output"]
shares = {"pixels": agreement(by_pixels), "features": agreement(by_features)}
print(
    f"neighbours of the same class: by pixels {shares['pixels']:.3f}, by features {shares['features']:.3f}"
)
tl.claim(
    "neighbours by features share the class more often than neighbours by pixels",
    shares["features"] > shares["pixels"] + 0.05,
    f"{shares['features']:.3f} against {shares['pixels']:.3f}",
)

# %% [markdown]
# ## How many images does it take?
#
# Now the question that this lesson is about. We compare a linear probe on the frozen backbone with the same architecture
# trained **from scratch**: random weights, all of them trained. Every run is repeated with other training images and
# other random weights. From scratch gets a fixed number of **passes**, images seen, that takes several times as long
# as the probe.
#
# **Predict:** with the largest training set and this budget, does the network from scratch come near the probe?

# %% tags=["nbval-ignore-output"]
plain = pets.plain().take(train=1000, test=800)
stacked = {
    part: torch.stack([image for image, _ in getattr(plain, part)])
    for part in ("train", "test")
}
labels = {part: getattr(plain, part).labels for part in ("train", "test")}
sets = {part: TensorDataset(stacked[part], labels[part]) for part in stacked}
start = time.perf_counter()
all_features = {part: tl.features.extract(backbone, images) for part, images in sets.items()}
per_image = (time.perf_counter() - start) / sum(len(images) for images in sets.values())
test_loader = DataLoader(sets["test"], batch_size=200)


def chosen(n, seed):
    """Rows of n training images, as many of each class."""
    generator = torch.Generator().manual_seed(seed)
    rows = [(labels["train"] == c).nonzero().flatten() for c in (0, 1)]
    return torch.cat([r[torch.randperm(len(r), generator=generator)[: n // 2]] for r in rows])


def frozen(n, seed):
    """Fit a linear probe; return its accuracy on the test set and on its own images, and seconds."""
    start, rows = time.perf_counter(), chosen(n, seed)
    some = tl.features.Features(all_features["train"].x[rows], all_features["train"].y[rows])
    probe = tl.features.fit_probe(some, seed=seed)
    seconds = time.perf_counter() - start + n * per_image  # features are part of the price
    return probe.evaluate(all_features["test"]).accuracy, probe.evaluate(some).accuracy, seconds


# %% [markdown]
# One function trains all of a network, from random or from pre-trained weights. We need the second later.


# %%
def all_trained(n, seed, passes, weights=None, lr=4e-3, layer_decay=1.0):
    """Train every parameter; return what `frozen` returns."""
    torch.manual_seed(seed)
    start, rows = time.perf_counter(), chosen(n, seed)
    model = tl.models.create(SIZE["backbone"], num_classes=2, weights=weights)
    model = model.to(runtime.device, memory_format=torch.channels_last)
    data = TensorDataset(stacked["train"][rows], labels["train"][rows])
    batch_size = min(32, n)
    sampler = RandomSampler(
        data, num_samples=passes // batch_size * batch_size
    )  # goes round as often as it takes
    loader = DataLoader(data, batch_size, sampler=sampler)
    groups = tl.models.param_groups(model, lr, layer_decay=layer_decay)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=len(loader))
    loaders = tl.data.Loaders(
        loader, [next(iter(loader))], None
    )  # one epoch: there is nothing to choose
    tl.train.fit(model, loaders, optimizer, epochs=1, scheduler=schedule, precision=PRECISION)
    seconds = time.perf_counter() - start
    own = DataLoader(data, batch_size=200)
    return *(
        tl.train.evaluate(model, part, precision=PRECISION).accuracy
        for part in (test_loader, own)
    ), seconds


# %% tags=["nbval-ignore-output"]
runs = {
    "frozen": {n: [frozen(n, seed) for seed in SEEDS] for n in (20, 50, 100, 200, 400, 800)},
    "scratch": {
        n: [all_trained(n, seed, passes) for seed in SEEDS]
        for n, passes in SIZE["passes"].items()
    },
}
accuracy = {
    name: {n: [run[0] for run in group] for n, group in by_size.items()}
    for name, by_size in runs.items()
}
tl.plots.accuracy_by_size(
    accuracy,
    chance=0.5,
    title="Frozen features need few images; scratch needs more of everything",
)

# %% tags=["nbval-ignore-output"]
for n in SIZE["passes"]:
    (a, a_error), (b, b_error) = (
        tl.evaluation.mean_and_error(accuracy[name][n]) for name in ("frozen", "scratch")
    )
    a_time, b_time = (
        sum(run[2] for run in runs[name][n]) / len(SEEDS) for name in ("frozen", "scratch")
    )
    print(
        f"{n} images: frozen {a:.3f} ± {a_error:.3f} in {a_time:.1f} s, scratch {b:.3f} ± {b_error:.3f} in {b_time:.1f} s"
    )
    margin = 2 * (a_error**2 + b_error**2) ** 0.5
    if n < 100:  # so few images differ too much from seed to seed for a claim
        continue
    tl.claim(
        f"with {n} images the frozen backbone is ahead by more than two standard errors, in less time",
        a - b > margin and a_time < b_time,
        f"{a - b:+.3f}, two standard errors {margin:.3f}",
    )

# %% [markdown]
# Dots are single runs, lines are means, bars are standard errors.
#
# This says how far each gets in its time. It does not say that training from scratch fails: with many more passes it
# does learn from the largest set, and with the smallest sets it does not. Raise `passes` and see for yourself.
#
# ## What it gives, and what it costs
#
# The chapter lists advantages and disadvantages of feature extraction in words. Let us measure each.
#
# **Memory.** Training keeps the activations that the backward pass will need. PyTorch lets us count their bytes.
# The chapter says that feature extraction needs little memory because no gradients are computed.
#
# **Predict:** and if the body is frozen, except for the very first layer?


# %%
def bytes_kept(model, images):
    """Count the bytes that one forward pass keeps for the backward pass, weights aside."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(
            model(images), torch.zeros(len(images), dtype=torch.long)
        )
    del loss
    return sum(kept.values())


measured_on = tl.models.create("tl_resnet", num_classes=2)
batch = torch.zeros(32, 3, 64, 64)
memory = {}
tl.models.train_mode(tl.models.unfreeze(measured_on))
memory["all trained"] = [bytes_kept(measured_on, batch) / 1e6]
tl.models.freeze(measured_on)
measured_on.conv1.weight.requires_grad_(True)
tl.models.train_mode(measured_on)
memory["stem and head trained"] = [bytes_kept(measured_on, batch) / 1e6]
tl.models.train_mode(tl.models.freeze(measured_on))
memory["head trained"] = [bytes_kept(measured_on, batch) / 1e6]
tl.plots.bars(
    memory,
    xlabel="megabytes kept for the backward pass, 32 images",
    title="Freezing saves memory from the input up only",
)

# %%
tl.claim(
    "frozen from the input up, the body keeps almost nothing for the backward pass",
    memory["head trained"][0] < 0.01 * memory["all trained"][0],
)
tl.claim(
    "one trainable layer at the bottom brings a good part of the memory back",
    memory["stem and head trained"][0] > 0.3 * memory["all trained"][0],
)

# %% [markdown]
# **Accuracy, speed and overfitting, against fine-tuning.** Fine-tuning starts from the pre-trained weights and trains
# everything; it is the subject of the next lesson. The chapter says that feature extraction is less accurate, very fast,
# and stable with little data. From scratch gets as many passes as fine-tuning.
#
# **Predict:** by how much does fine-tuning win, or does it lose?

# %% tags=["nbval-ignore-output"]
N = 200
tuned = {"weights": "default", "lr": 3e-3, "layer_decay": 0.8}
compared = {
    "scratch": runs["scratch"][N],
    "frozen": runs["frozen"][N],
    "fine-tuned": [all_trained(N, seed, SIZE["passes"][N], **tuned) for seed in SEEDS],
}
test_accuracy = {name: [run[0] for run in group] for name, group in compared.items()}
overfit = {name: [run[1] - run[0] for run in group] for name, group in compared.items()}
took = {name: sum(run[2] for run in group) / len(SEEDS) for name, group in compared.items()}


def lead(first, second):
    """Mean difference of two approaches over the seeds, and its standard error."""
    pairs = zip(test_accuracy[first], test_accuracy[second], strict=True)
    return tl.evaluation.mean_and_error([a - b for a, b in pairs])


gain, gain_error = lead("fine-tuned", "frozen")
wins = gain > 2 * gain_error
tl.plots.bars(
    test_accuracy,
    xlabel=f"test accuracy with {N} training images",
    digits=3,
    title=f"Fine-tuning {'is ahead' if wins else 'is not ahead'} on {SIZE['data']}",
)

# %% tags=["nbval-ignore-output"]
for name, values in overfit.items():
    mean, error = tl.evaluation.mean_and_error(values)
    print(
        f"{name:10}  training minus test accuracy {mean:.3f} ± {error:.3f}, {took[name]:.1f} s a run"
    )
head_start, head_start_error = lead("frozen", "scratch")
print(f"frozen minus scratch:    {head_start:+.3f} ± {head_start_error:.3f}")
print(f"fine-tuned minus frozen: {gain:+.3f} ± {gain_error:.3f}")
if SIZE["data"] == "toypets":  # real pets look like what the backbone knows; toys do not
    tl.claim(
        "on toy pets the order is scratch, frozen, fine-tuned, each by more than two standard errors",
        wins and head_start > 2 * head_start_error,
        f"{head_start:+.3f} and {gain:+.3f}",
    )
tl.claim(
    "feature extraction is at least three times as fast, features included",
    took["fine-tuned"] > 3 * took["frozen"],
    f"{took['fine-tuned']:.1f} s against {took['frozen']:.1f} s",
)

# %% [markdown]
# Which of the chapter's points does your run support? On the toy pets it is accuracy and speed. Stability is not a law:
# compare the two gaps that your run printed.
#
# **Dependence on the source.** The features need not suit everything. Scikit-learn's handwritten digits are far
# from the images that the backbone was trained on. For both sets we compare a probe on features with one on bare pixels.
#
# **Predict:** for which of the two sets are the features worth more?


# %% tags=["nbval-ignore-output"]
def pixels_of(part):
    """Bare pixels, averaged down to 16 x 16, in the place of features."""
    stack = torch.stack([image for image, _ in part])
    rows = nn.functional.adaptive_avg_pool2d(stack, 16).flatten(1)
    return tl.features.Features(rows, part.labels)


def probe_both(images, extracted):
    """Accuracy of a probe on features, and of one on bare pixels."""
    on_features = tl.features.fit_probe(extracted.train).evaluate(extracted.test)
    on_pixels = tl.features.fit_probe(pixels_of(images.train)).evaluate(pixels_of(images.test))
    return on_features, on_pixels


digits = tl.data.load("digits", model=backbone, train=300, val=50).plain()
pairs = {
    "pets": probe_both(few.plain(), features),
    "digits": probe_both(digits, tl.features.extract_splits(backbone, digits)),
}
for name, (with_features, with_pixels) in pairs.items():
    print(f"{name}, features: {with_features}")
    print(f"{name}, pixels:   {with_pixels}")
worth = {name: a.accuracy - b.accuracy for name, (a, b) in pairs.items()}
tl.claim(
    "the backbone's features are worth more on images of animals than on digits",
    worth["pets"] > worth["digits"] + 0.1,
    f"{worth['pets']:+.3f} against {worth['digits']:+.3f}",
)

# %% [markdown]
# ### How far is your own domain?
#
# Ask the backbone. Each of its batch norms remembers the mean $\mu$ and the deviation $\sigma$ that a channel had on the
# images it was trained on. Your images give a mean $\mu'$ and a deviation $\sigma'$ in the same place. The
# **domain gap** of a stage is the median over its channels of
#
# $$\frac{\sqrt{(\mu' - \mu)^2 + (\sigma' - \sigma)^2}}{\sigma}$$
#
# Nothing is trained for it, and the old images are not needed.
#
# **Predict:** sort these sets from near to far: pets, their silhouettes, radiographs, land use seen from above, digits.

# %% tags=["nbval-ignore-output"]
OTHERS = ("toypets-silhouette", "radiographs", "surfaces", "landuse", "digits")
gaps = {"pets": tl.features.domain_gap(backbone, few.take(train=50).plain().train)[-1]["gap"]}
for name in OTHERS:
    other = tl.data.load(name, model=backbone, train=50).plain()
    gaps[name] = tl.features.domain_gap(backbone, other.train)[-1]["gap"]
tl.plots.bars(
    {name: [gap] for name, gap in sorted(gaps.items(), key=lambda pair: pair[1])},
    xlabel="domain gap, mean of the stages (deviations)",
    title="Batch norm tells how far a set of images is from those of pre-training",
)
tl.claim(
    "digits are further from the images of pre-training than the pets are",
    gaps["digits"] > gaps["pets"],
    f"{gaps['digits']:.2f} against {gaps['pets']:.2f}",
)

# %% [markdown]
# And how deep do the features serve? One can put a probe on every stage's output, not only on the last. That takes a
# while for many domains, so the package carries the accuracies for its own backbone, as `tools/measure_backbone.py`
# measured them.
#
# **Predict:** early stages see edges and colours, late ones parts of things. For which domains is the last stage not
# the best?

# %% tags=["nbval-ignore-output"]
stored = tl.features.stored_measurements()
chance = {name: 1 / n for name, n in stored["classes"].items()}
shown = ("dogs-vs-cats", "toypets", "radiographs", "surfaces", "landuse", "digits")
profile = {name: stored["profile"][name] for name in shown}
best = {name: max(by_stage, key=by_stage.get) for name, by_stage in profile.items()}
early = [name for name, stage in best.items() if stage != "layer4"]
tl.plots.depth(
    profile,
    chance=chance,
    title=f"The last stage is best for {len(best) - len(early)} of {len(best)} domains",
)
for name, stage in best.items():
    print(
        f"{name:13} best stage {stage}, {profile[name][stage]:.3f}; last {profile[name]['layer4']:.3f}"
    )

# %% [markdown]
# Is the order scratch, frozen, fine-tuned a law? Here it is for every domain that was measured, with few training images
# of the package's sets and all images of the two real ones.

# %% tags=["nbval-ignore-output"]
names = {"scratch": "scratch", "probe": "frozen", "fine-tuned": "fine-tuned"}
table = tl.Table()
for name, reached in stored["gain"].items():
    means = {shown: fmean(reached[kind]) for kind, shown in names.items()}
    row = {"domain": name, "classes": stored["classes"][name]}
    row |= {shown: round(mean, 3) for shown, mean in means.items()}
    table.append(row | {"from worst to best": ", ".join(sorted(means, key=means.get))})
usual = [
    row["domain"] for row in table if row["from worst to best"] == ", ".join(names.values())
]
print(f"scratch, frozen, fine-tuned: the order on {len(usual)} of {len(table)} domains")
table

# %% [markdown]
# The last question: does fine-tuning gain more where the gap is larger? Again from the stored measurements, with as many
# points as there are domains: read the verdict before you believe the plot.

# %% tags=["nbval-ignore-output"]
points = {
    name: (stored["gap"][name]["mean"], fmean(reached["fine-tuned"]) - fmean(reached["probe"]))
    for name, reached in stored["gain"].items()
}
rank = spearmanr(*zip(*points.values(), strict=True))
related = rank.pvalue < 0.05
tl.plots.scatter(
    points,
    xlabel="domain gap (deviations)",
    ylabel="fine-tuned minus probe,\ntest accuracy",
    title="A larger gap goes with a larger gain from fine-tuning"
    if related
    else "The gap alone does not say what fine-tuning will gain",
)
print(f"rank correlation {rank.statistic:+.2f}, p = {rank.pvalue:.2f}, {len(points)} domains")

# %% [markdown]
# The chapter's table, with what this run measured:

# %% tags=["nbval-ignore-output"]
rows = [
    (
        "training speed",
        "very fast",
        f"{took['frozen']:.1f} s; fine-tuning {took['fine-tuned']:.1f} s",
    ),
    (
        "memory",
        "low",
        f"{memory['head trained'][0]:.2f} MB kept; all trained {memory['all trained'][0]:.0f} MB",
    ),
    (
        "little data",
        "stable",
        "20 images: " + " ".join(f"{a:.2f}" for a in accuracy["frozen"][20]),
    ),
    ("accuracy", "below fine-tuning", f"{-gain:+.3f} ± {gain_error:.3f}"),
    (
        "other tasks",
        "tied to the source",
        f"worth {worth['pets']:+.2f} on pets, {worth['digits']:+.2f} on digits",
    ),
]
tl.Table(
    dict(zip(("feature extraction", "the chapter", "measured"), row, strict=True))
    for row in rows
)

# %% [markdown]
# ## Take-away
#
# - A frozen backbone turns a image into features once; training means fitting a small, convex problem on them.
# - Freezing parameters does not freeze batch norm: keep what is frozen in evaluation mode.
# - Memory is saved where everything below is frozen, down to the input.
# - Choose on the validation set, report on the test set, once; augment neither.
# - With few images and little time, frozen features beat training from scratch; fine-tuning can beat both.
#
# ### Ask yourself
#
# <details><summary>You freeze a network and train its head in a plain loop. Why can yesterday's stored head fail on
# today's backbone?</summary>
#
# The plain loop calls `model.train()`. Batch norm then moves its running statistics although no parameter trains,
# so the features drift away from those that the head was fitted to.
# </details>
#
# <details><summary>You want augmentation and cached features. What are your choices?</summary>
#
# Cache the features of several augmented versions of each image, or give up one of the two. One random version,
# kept for good, is no augmentation: that is why `tl.features.extract` refuses random transforms.
# </details>
#
# <details><summary>Your validation accuracy is higher than your test accuracy. Is something broken?</summary>
#
# Not by itself. The epoch was chosen because its validation accuracy was high; part of that was luck.
# </details>
#
# **Read on:** Kornblith and others, *Do better ImageNet models transfer better?*;
# Yosinski and others, *How transferable are features in deep neural networks?*
# The next lesson, fine-tuning, lets go of the body, stage by stage.
