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
# # 3.4 Choosing a model: torchvision
#
# torchvision offers many pre-trained networks. One is the most accurate, another the fastest, and a third fits into your
# memory. In this lesson you measure what a network costs, on your machine, and choose one for your budget.
#
# **You will be able to** read what a set of weights promises, count multiply-adds and memory, measure time properly,
# tell which networks are worth a look, and use weights with the preprocessing that belongs to them.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 3.2.

# %% [markdown]
# ## What the weights say about themselves
#
# Each set of weights in torchvision carries its facts: the number of parameters, of **multiply-adds** (a multiplication and the
# addition that follows; nearly all of a network's arithmetic), the image size, and the **published accuracy**, measured by torchvision's developers on ImageNet's validation set. Reading them downloads nothing.

# %%
import torchvision
from torchvision import models as tv

published = {}
for name in tv.list_models(module=torchvision.models):
    for weights in tv.get_model_weights(name):
        version = weights.name.removeprefix("IMAGENET1K")
        accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        if accuracy > 0:  # one set has none: it is not a number
            published[name + version] = {
                "parameters": weights.meta["num_params"],
                "multiply-adds": weights.meta["_ops"],  # in billions
                "accuracy": accuracy,
            }
points = {
    name: (row["multiply-adds"], row["accuracy"])
    for name, row in published.items()
}
print(f"{len(published)} sets, torchvision", torchvision.__version__)

# %%
labels = {"xlabel": "multiply-adds per image, in billions"}
labels["ylabel"] = "published accuracy on ImageNet, in %"
tl.plots.tradeoff(
    points,
    [],
    named=["shufflenet_v2_x0_5_V1", "vgg16_V1", "vit_l_16_V1"],
    title="More multiply-adds buy accuracy, but not from every network",
    **labels,
)

# %% [markdown]
# One network **dominates** another if it is at least as accurate, costs no more, and is better in one of the two. Those
# that no other dominates form the **Pareto front**. It depends on the cost: with time or memory instead of multiply-adds,
# other networks can be on it.

# %%
front_guess = tl.guess(
    "How many of all these sets of weights are on the front?",
    ["about one in six", "about one in three", "most of them"],
)


# %%
def front(points):
    """Return the names that no other dominates in cost and accuracy."""
    names, best = [], 0
    for name in sorted(points, key=lambda n: (points[n][0], -points[n][1])):
        if points[name][1] > best:
            names.append(name)
            best = points[name][1]
    return names


best = front(points)
front_guess.compare(f"{len(best)} of {len(points)}")
tl.plots.tradeoff(
    points,
    best,
    named=best[::6],
    title=f"{len(best)} of {len(points)} sets of weights are on the front",
    **labels,
)

# %% [markdown]
# Two warnings. These accuracies come from different recipes of training, and newer sets of weights often had the better ones. And they
# are accuracies on ImageNet: a better network there is [often, not always](https://arxiv.org/abs/1805.08974) better on
# your images.
#
# ## Weight versions
#
# The same architecture can have several sets of weights. `weights="DEFAULT"` is what torchvision recommends, `weights=None`
# gives random numbers, without a warning. Some networks also have `SWAG` sets, pre-trained on far more images. They are more
# accurate, and some take larger images. Read `weights.meta["license"]` before you use them, where it is given.

# %%
version_guess = tl.guess(
    "ResNet-50 has two sets, V1 and V2. The newer one is better by",
    ["less than a point", "about two points", "more than four points"],
)

# %%
from PIL import Image

SETS = tv.ResNet50_Weights
V1, V2 = SETS.IMAGENET1K_V1, SETS.IMAGENET1K_V2
for weights in (V1, V2):
    accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    steps = weights.transforms()
    print(
        f"{weights.name}: {accuracy} %, its images are resized to", end=" "
    )
    print(f"{steps.resize_size[0]} and cropped to {steps.crop_size[0]}")
    print("    recipe:", weights.meta["recipe"])
tops = [w.meta["_metrics"]["ImageNet-1K"]["acc@1"] for w in (V1, V2)]
version_guess.compare(f"{tops[1] - tops[0]:.1f} points, same architecture")
print("DEFAULT is", SETS.DEFAULT.name)
print("min_size:", V2.meta["min_size"])
ready = V2.transforms()(Image.new("RGB", (300, 250)))
print(f"an image of 300 x 250 pixels becomes {tuple(ready.shape)}")

# %% [markdown]
# Most of this comes from a better recipe of training: longer, with stronger augmentation. So a comparison of two architectures with
# weights of different recipes compares recipes, too.
#
# **From the chapter.** Example 6 reads the image size from `min_size`. That is the smallest image that the network can
# take. What the weights were measured with is in `transforms()`.
#
# ## Parameters and multiply-adds
#
# A convolution with a kernel of $k \times k$ takes $k \cdot k \cdot C_{in} / g$ multiply-adds for each number it puts
# out, where $C_{in}$ is the number of input channels and $g$ the number of groups. It puts out
# $C_{out} \cdot H_{out} \cdot W_{out}$ numbers. A bias isn't counted. The parameters of a convolution don't depend on the size of the image; its multiply-adds do.
#
# ### Your turn
#
# Write a function of an `nn.Conv2d` and of the height and width of its **output**, that returns the multiply-adds.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(conv, height, width):
#     kernel = conv.kernel_size[0] * conv.kernel_size[1]
#     inputs = conv.in_channels // conv.groups
#     return kernel * inputs * conv.out_channels * height * width
# ```
# </details>

# %%
answer = ...  # a function: def answer(conv, height, width): ...
tl.check("3.4/multiply-adds", answer)

# %% [markdown]
# For whole networks, PyTorch counts while it runs. On the device `meta`, tensors have a shape and no numbers, so this takes
# almost no time and no memory.

# %%
import torch
from torch.utils.flop_counter import FlopCounterMode

with torch.device("meta"):
    resnet50 = tv.resnet50(weights=None).eval()
    image = torch.empty(1, 3, 224, 224)
with FlopCounterMode(display=False) as counter, torch.no_grad():
    resnet50(image)
# one multiply-add is two floating-point operations
counted = counter.get_total_flops() / 2 / 1e9
print(f"counted {counted:.3f} G, published {V2.meta['_ops']} G")
print(f"tl.cost: {tl.cost.multiply_adds(resnet50, 224) / 1e9:.3f} G")

# %% [markdown]
# **From the chapter.** Example 5 replaces the head for two classes, and then prints numbers of parameters that still count the
# old head for ImageNet's classes. Does that matter?

# %%
head_guess = tl.guess(
    "EfficientNet-B0 gets a head for two classes. It loses",
    ["under a hundredth of its parameters", "a twentieth", "a quarter"],
)

# %%
lost = {}
for name in ("resnet50", "efficientnet_b0"):
    sizes = []
    for classes in (1000, 2):
        with torch.device("meta"):
            model = tv.get_model(name, weights=None, num_classes=classes)
        sizes.append(sum(p.numel() for p in model.parameters()))
    lost[name] = 1 - sizes[1] / sizes[0]
    print(
        f"{name}: {sizes[0]:,}, then {sizes[1]:,} ({lost[name]:.0%} less)"
    )
head_guess.compare(f"{lost['efficientnet_b0']:.0%} of them")

# %% [markdown]
# It matters most for small networks, where the head is a large share.
#
# ## Time, on your machine
#
# Multiply-adds are not seconds. A processor waits for memory, and some layers keep it busier than others. To measure
# time, run the network once before, because the first call allocates memory; let the networks take turns, so that a slow
# moment of the machine meets all; repeat; and show the spread.
#
# **From the chapter.** Example 5 and Example 8 read the clock before and after calls on a GPU. A GPU works on while Python goes
# on, so that measures how fast work is handed over. `torch.cuda.synchronize()` before each reading waits for the results; `torch.accelerator.synchronize()` does so on any GPU.
#
# First the loop for one network, then `tl.cost.measure` for several, in turns. `latency` is the median time for one image, `spread` the range of the middle half of
# the times; `least` is the quickest call, to which other programs add nothing or little. The ratios below use `least`.

# %%
time_guess = tl.guess(
    "EfficientNet-B0 has about a tenth of ResNet-50's multiply-adds. "
    "How much of ResNet-50's time does it take for one image?",
    ["under a fifth", "a fifth to two fifths", "over two fifths"],
)

# %% tags=["nbval-ignore-output"]
import statistics
import time

network = tv.resnet18(weights=None).eval().to(runtime.device)
image = torch.zeros(1, 3, 224, 224, device=runtime.device)
times = []
with torch.inference_mode():
    for turn in range(8):
        start = time.perf_counter()
        network(image)
        if runtime.device.type != "cpu":
            torch.accelerator.synchronize()
        if turn:  # the first call doesn't count
            times.append(time.perf_counter() - start)
print(f"resnet18: {1000 * statistics.median(times):.0f} ms for one image")

# %% tags=["nbval-ignore-output"]
MINI = runtime.profile == "mini"
NAMES = ["resnet18", "resnet50", "mobilenet_v3_large", "efficientnet_b0"]
NAMES += ["vit_b_16", "convnext_base"]
networks = {
    name: tv.get_model(name, weights=None).to(runtime.device)
    for name in NAMES
}
costs = tl.cost.measure(
    networks,
    224,
    batch_size=4 if MINI else 64,
    repeats=5 if MINI else 50,
)
print("threads:", torch.get_num_threads(), "device:", runtime.device)
costs

# %% tags=["nbval-ignore-output"]
rows = {row["model"]: row for row in costs}
small, large = rows["efficientnet_b0"], rows["resnet50"]
time_share = small["least (ms)"] / large["least (ms)"]
work_share = small["multiply-adds (G)"] / large["multiply-adds (G)"]
time_guess.compare(f"{time_share:.2f} of ResNet-50's time")
default = {name: tv.get_model_weights(name).DEFAULT for name in NAMES}
measured = {
    name: (
        rows[name]["least (ms)"],
        default[name].meta["_metrics"]["ImageNet-1K"]["acc@1"],
    )
    for name in NAMES
}
tl.claim(
    "EfficientNet-B0 takes over twice ResNet-50's time per multiply-add",
    time_share > 2 * work_share,
    f"{time_share / work_share:.1f} times as much",
)

# %% tags=["nbval-ignore-output"]
slower = rows["vit_b_16"]["least (ms)"] / large["least (ms)"]
tl.plots.tradeoff(
    measured,
    [],
    named=NAMES,
    xlabel="milliseconds for one image, quickest call",
    ylabel=labels["ylabel"],
    title=f"vit_b_16 takes {slower:.1f} times as long as resnet50",
)

# %% [markdown]
# EfficientNet and MobileNet save multiply-adds with **depthwise convolutions**: each channel is a group of its own. These do
# little work for each number they fetch. Speed doesn't depend on the values of the weights, so random ones are good enough
# for measuring. A machine with a GPU or more cores can give another order: measure on the one that will do the work. Networks
# whose times differ by less than their spread, or one network that is measured again, can change places when you run the cell again.
#
# ## Memory, when you train
#
# A prediction holds the weights, and the outputs of a few layers at a time. Training with Adam also holds a gradient and two
# moments for each parameter that trains, and the **activations**: the outputs of layers that the backward pass needs, for each
# image of the batch.

# %%
memory_guess = tl.guess(
    "Training EfficientNet-B0 with batches of 32 images holds, in sizes of "
    "its weights,",
    ["about 4", "about 20", "more than 100"],
)

# %% tags=["nbval-ignore-output"]
memory = tl.Table()
for name in ("efficientnet_b0", "resnet50"):
    for frozen in (False, True):
        networks[name].requires_grad_(not frozen)
        tl.models.head(networks[name]).requires_grad_(True)
        held = tl.cost.training_memory(networks[name], 224, batch_size=32)
        megabytes = {part: size // 10**6 for part, size in held.items()}
        way = "head alone" if frozen else "all layers"
        memory.append({"model": name, "trains": way} | megabytes)
ratio = sum(list(memory[0].values())[2:]) / memory[0]["weights"]
memory_guess.compare(f"{ratio:.0f} times its weights; below in MB")
tl.claim(
    "with batches of 32, EfficientNet-B0 holds over 100 times its weights",
    ratio > 100,
    f"{ratio:.0f} times",
)
memory

# %% [markdown]
# EfficientNet has far fewer weights than ResNet, yet its activations take about as much memory. With a frozen backbone,
# no activation below the head has to be kept. These bytes are counted: work space comes on top. On a GPU,
# `torch.cuda.max_memory_allocated()` gives the measured peak.
#
# ## The trap: the right weights, other preprocessing
#
# Weights belong with their preprocessing. `weights.transforms()` gives the one that they were evaluated with, and so does
# `tl.preprocessing.get_preprocessing`. A head is fitted here on images that were prepared correctly. Then it meets images
# that another program has prepared. In `mini`, the backbone is the course's `tl_resnet`, which takes images of `64 x 64` pixels.
# You load a torchvision network with its weights and their preprocessing like this:
#
# ```python
# weights = tv.ResNet50_Weights.DEFAULT
# model = tv.resnet50(weights=weights).eval()
# x = weights.transforms()(image)[None]
# ```

# %%
size_guess = tl.guess(
    "Twice the image size, with more detail than before. Accuracy",
    ["rises", "stays the same", "falls a little", "falls a lot"],
)

# %% tags=["nbval-ignore-output"]
from torchvision.transforms import v2

BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 200 or more
backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS).to(runtime.device)
pets = tl.data.load(DATA, model=backbone, train=LIMIT).plain()


# %% tags=["nbval-ignore-output"]
def prepare(size, resize, mean, std):
    """Return the steps of a transform, for sizes and a normalisation."""
    steps = [v2.Resize(resize), v2.CenterCrop(size), v2.ToImage()]
    floats = v2.ToDtype(torch.float32, scale=True)
    return [*steps, floats, v2.Normalize(mean, std)]


own = pets.preprocessing
sizes, usual = (own.size, own.resize), (own.mean, own.std)
half, twice = [side // 2 for side in sizes], [side * 2 for side in sizes]
swap, its = v2.Lambda(lambda image: image.flip(0)), prepare(*sizes, *usual)
steps = {
    "its own": its,
    "no normalising": prepare(*sizes, [0] * 3, [1] * 3),
    "red and blue swapped": [*its[:-1], swap, its[-1]],
    "half the image size": prepare(*half, *usual),
    "twice the image size": prepare(*twice, *usual),
}
mistakes = {name: v2.Compose(parts) for name, parts in steps.items()}

# %% tags=["nbval-ignore-output"]
few = pets.take(min(400, len(pets.train)), min(400, len(pets.val)))
x = {}
for name, transform in mistakes.items():
    both = [p.with_transform(transform) for p in (few.train, few.val)]
    x[name] = [tl.features.extract(backbone, part) for part in both]
found = {name: [] for name in mistakes}  # the head of its own images
refit = {name: [] for name in mistakes}  # a head of such images
for seed in runtime.seeds(10):
    mixer = torch.Generator().manual_seed(seed)
    rows, heads = torch.randperm(len(few.train), generator=mixer)[:200], {}
    for name, (train, val) in x.items():
        drawn = tl.features.Features(*(part[rows] for part in train))
        heads[name] = tl.features.fit_probe(drawn, seed=seed)
        found[name].append(heads["its own"].evaluate(val).accuracy)
        refit[name].append(heads[name].evaluate(val).accuracy)

# %% tags=["nbval-ignore-output"]
tl.plots.runs(
    {name: {200: values} for name, values in found.items()},
    chance=1 / len(pets.classes),
    title="A head loses accuracy on images prepared in another way",
)
lost, again = {}, {}
for name in list(mistakes)[1:]:
    for runs, into in ((found, lost), (refit, again)):
        pairs = zip(runs[name], found["its own"], strict=True)
        gaps = tuple(a - b for a, b in pairs)
        into[name] = tl.experiments.Difference(gaps)
    print(f"{name}: {lost[name]}\n    head refitted: {again[name]}")
size_guess.compare(f"{lost['twice the image size'].mean:+.3f}")
if MINI:
    others = [one for name, one in lost.items() if "red" not in name]
    least = max(one.mean + one.margin for one in others)
    tl.claim("all but swapped colours cost over ten points", least < -0.1)
    refitted = again["twice the image size"]
    fits = refitted.mean - refitted.margin > -0.05
    tl.claim("refitted at twice the size, a head doesn't lose much", fits)

# %% [markdown]
# The head was fitted to features of images prepared in one way, and met features of images prepared in another. That costs
# accuracy, and no error says so: a network that averages over positions before its head takes images of any size. Refitted, the head
# wins back some or all of that. At half the size and without normalising, a loss stays: the features are worse. So prepare images
# in use as for fitting; the weights' own way is the safe choice. Where classes differ in colour, swapped colours may cost more.
#
# The doctor compares a few images with what the weights say. It sees missing normalisation and wrong sizes, but not swapped
# colours: look at a prepared image yourself.


# %% tags=["nbval-ignore-output"]
def examine(transform, model, images):
    """Return what the doctor says about images prepared like this."""
    loader = torch.utils.data.DataLoader(
        images.with_transform(transform), batch_size=50, shuffle=True
    )
    return tl.examine(model, data=loader)


model = tl.models.create(BACKBONE, 2, weights=WEIGHTS).to(runtime.device)
some = pets.take(train=100).train
wrong = examine(mistakes["twice the image size"], model, some)
repaired = examine(mistakes["its own"], model, some)
tl.claim(
    "the doctor sees the wrong size, and nothing after the repair",
    bool(wrong.named("input-size")) and not repaired.findings,
)
wrong

# %% [markdown]
# ## Choose
#
# ### Your turn
#
# Write a function of a table like `published`, of a number of parameters and of billions of multiply-adds. It returns the
# name with the best published accuracy among those that are within both limits, and `None` if there is none.
#
# <details><summary>Solution</summary>
#
# ```python
# def choose(table, parameters, multiply_adds):
#     fits = [
#         name
#         for name, row in table.items()
#         if row["parameters"] <= parameters
#         and row["multiply-adds"] <= multiply_adds
#     ]
#     return max(fits, key=lambda n: table[n]["accuracy"], default=None)
# ```
# </details>

# %%
# a function: def choose(table, parameters, multiply_adds): ...
choose = ...
tl.check("3.4/choose", choose)

# %% [markdown]
# Use it on `published`: which set of weights would you take for a phone, which for a server? A name ends with the
# version: `resnet50_V1` is the network `resnet50` with the weights `IMAGENET1K_V1`, and `vit_b_16_SWAG_E2E_V1` is `vit_b_16` with
# `IMAGENET1K_SWAG_E2E_V1`. Then measure the candidates where they will run, and compare them by the validation line
# below: the accuracy on ImageNet is only a hint. Set `FINAL` to `False` until you have a winner.
#
# ## Your own images
#
# Set `FOLDER` to a folder with one subfolder per class, and `NAME` and `SET` to what you chose. The head and the
# preprocessing follow. The validation accuracy is that of a head fitted to the training images alone; the head that is tested,
# once, and saved is fitted to both.

# %% tags=["nbval-ignore-output"]
import tempfile
from pathlib import Path

FOLDER = None  # or "~/my-images"
NAME, SET = BACKBONE, WEIGHTS  # or "resnet50", "IMAGENET1K_V1"
FINAL = True  # False while you compare
chosen = tl.models.create(NAME, 2, weights=SET)
place = FOLDER or tl.data.export_folder(
    pets.take(train=100, val=100, test=400),
    Path(tempfile.mkdtemp()) / "my-pets",
)
mine = tl.data.from_folder(place, model=chosen)
model = tl.models.replace_head(chosen, len(mine.classes))
result = tl.recipes.linear_probe(model.to(runtime.device), mine)
print("validation:", result.val, *["\ntest, once:", result.test] * FINAL)
file = Path("runs") / "my-choice.safetensors"
tl.predict.save_checkpoint(file, model, mine.classes)
loaded, about = tl.predict.load_checkpoint(file)
first = mine.test.sources[0]
one = tl.predict.predict_files(loaded, about["classes"], [first])[0]
print(f"{first.name}: {one.label}, {one.probability:.2f}")

# %% [markdown]
# ## Take-away
#
# - Most sets of weights are dominated by another one on accuracy and multiply-adds: look at the front first, then measure.
# - Multiply-adds are not seconds: measure time where the network will run, after a warm-up, with a spread.
# - For both networks measured here, a batch's activations took far more memory than the weights. A frozen backbone spares them.
# - Prepare images in use as for fitting, best in the weights' own way: a change between the two costs accuracy, and no error
#   says so.
#
# <details><summary>A friend times a network on a GPU at a fraction of a millisecond, whatever the batch. What happened?</summary>
#
# The clock was read before the GPU was done. Synchronise before each reading.
# </details>
#
# <details><summary>Your GPU has no memory left in training. What helps?</summary>
#
# Smaller batches or a frozen backbone: both hold fewer activations, which were most of it above.
# </details>
#
# <details><summary>Two architectures differ by two points on ImageNet. Is the better one the better architecture?</summary>
#
# Not necessarily: the weights may come from different recipes. ResNet-50's two sets differ by more than that.
# </details>
#
# **Read on:** [torchvision's models](https://docs.pytorch.org/vision/stable/models.html);
# [Kornblith and others](https://arxiv.org/abs/1805.08974), *Do better ImageNet models transfer better?*;
# [He and others](https://arxiv.org/abs/1512.03385), ResNet; [Tan and Le](https://arxiv.org/abs/1905.11946), EfficientNet;
# [Dosovitskiy and others](https://arxiv.org/abs/2010.11929), ViT; [Liu and others](https://arxiv.org/abs/2201.03545),
# ConvNeXt. Next: 3.5, timm.
