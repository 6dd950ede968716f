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
# # 3.6b Smaller models
#
# Your fine-tuned network works, and it is too large or too slow for where it has to run. Here you make it smaller in
# three ways, and measure what each one costs: **quantisation** (fewer bits per number), **pruning** (fewer numbers) and
# **distillation** (a smaller network that learns from the large one). Then you **export** it to a file that runs without your code.
#
# **You will be able to** say for each of the three what it does to the file, to the time per image and to the accuracy, and
# hand over an exported file that you have checked.
#
# **Time:** about 25 minutes to read, one minute to run. **Builds on** 3.6.

# %%
BACKBONE = {"mini": "tl_resnet", "full": "resnet50"}[runtime.profile]
STUDENT = {"mini": "test_resnet", "full": "resnet10t"}[runtime.profile]
WEIGHTS = "default"  # or a file
DATA = {"mini": "toypets", "full": "dogs-vs-cats"}[runtime.profile]
LIMIT = None  # or a number of training images, 500 or more
LR = {"mini": 0.001, "full": 0.0001}[runtime.profile]  # all layers
MINI = runtime.profile == "mini"
STORED = MINI and LIMIT is None and WEIGHTS == "default"
backbone = tl.models.create(BACKBONE, 2, weights=WEIGHTS)
pets = tl.data.load(DATA, model=backbone, train=LIMIT)
LABELLED = len(pets.train) // 5
work_guess = tl.guess(
    "In a ResNet, most weights are in the last stage. "
    "What share of the multiplications does it do?",
    ["a third or less", "about a half", "most of them"],
)

# %% tags=["nbval-ignore-output"]
from torch.utils.flop_counter import FlopCounterMode

large = tl.experiments.Trained(
    lr=LR, passes=10, weights=WEIGHTS, model=BACKBONE
)
trained, few = large.fit(pets, LABELLED, runtime.seed)  # a fifth
TEACHER = trained.cpu().eval()  # small models are for small machines
image = pets.val[0][0][None]
with FlopCounterMode(display=False, depth=None) as counter:
    TEACHER(image)
counts = counter.get_flop_counts()
weights, work = {}, {}
for stage in tl.models.stages(TEACHER):
    layers = {name.rpartition(".")[0] for name in stage.parameters}
    names = [f"{type(TEACHER).__name__}.{layer}" for layer in layers]
    flops = sum(sum(counts.get(name, {}).values()) for name in names)
    weights[stage.name], work[stage.name] = stage.count, flops

# %%
titles = "share of the weights", "share of the multiplications"
title = "A stage's share of the weights is not its share of the work"
with tl.plots.new_figure(7, 2.6, title=title, ncols=2, sharey=True) as axs:
    for ax, name, values in zip(*axs, titles, (weights, work), strict=True):
        shares = [x / sum(values.values()) for x in values.values()]
        ax.barh(list(values), shares, color=tl.plots.GREY)
        ax.set(xlabel=name, xlim=(0, 1))
    axs[0][0].invert_yaxis()
last = list(work)[-2]
work_guess.compare(f"{last} does {work[last] / sum(work.values()):.0%}")

# %% [markdown]
# ## Size and time are two things
#
# You have fine-tuned the network on a fifth of the training images. The rest counts as unlabelled until later. The figure
# counts the weights of each stage, and its multiplications for one image: a method can make the file smaller and no
# image faster, or the other way round. You measure both, and what the network answers:
#
# - **size**: the bytes of the file.
# - **time** for one image, on one thread. `torch.utils.benchmark` warms up, repeats, and gives the median and the
#   spread (the range of the middle half). It counts the thread's time on the processor, so that other programs hardly
#   disturb it. **Times faster** compares with the original, timed in turns. `original`, `float16 file` and `int8 file` do the same
#   operations below: what differs between their times is noise.
# - **accuracy** on the validation set, and the share of validation images with the **same answer** as the original.
#   The second notices changes that leave the accuracy as it is.

# %% tags=["nbval-ignore-output"]
import time

import torch
from safetensors.torch import load, save
from tlcourse.lessons.variants import Variants, latency
from torch.utils import benchmark

timer = benchmark.Timer(  # on one thread
    "TEACHER(image)", globals=globals(), timer=time.thread_time
)
with torch.inference_mode():
    found = timer.blocked_autorange(min_run_time=0.3)
print(f"{1000 * found.median:.2f} ms, spread {1000 * found.iqr:.2f}")
print(f"the package's function: {latency(TEACHER, image)[0]:.2f} ms")
part = pets.take(val=200 if MINI else 400).val
variants = Variants(TEACHER, part)
variants.add("original", TEACHER, len(save(TEACHER.state_dict())))

# %% [markdown]
# ## Quantise with one call
#
# To **quantise** is to store a number in fewer bits: as a small integer, with a scale that many numbers share.
# **From the chapter**: its last example does that with one call, `torch.quantization.quantize_dynamic`.

# %%
size_guess = tl.guess(
    "Eight bits instead of 32, with one call. How large is the file then?",
    ["a quarter", "a half", "about as large as before"],
)

# %%
import pickle
import warnings

try:
    from torch.ao import quantization
except ImportError:
    quantization = None  # later versions of torch have it in torchao
if quantization:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says it will go
        dynamic = quantization.quantize_dynamic(TEACHER)
    kinds = {type(module).__name__ for module in dynamic.modules()}
    sizes = [len(pickle.dumps(m.state_dict())) for m in (TEACHER, dynamic)]
    ratio = sizes[1] / sizes[0]
    size_guess.compare(f"{ratio:.0%}; inside: {', '.join(sorted(kinds))}")
    tl.claim("dynamic quantisation hardly shrinks a ResNet", ratio > 0.98)

# %% [markdown]
# It replaces `Linear` layers (by a class of the same name) and leaves every `Conv2d` as it is. That suits a transformer, whose
# weights are mostly in `Linear` layers. In this ResNet the only `Linear` is the head; torchvision's VGG, with most weights in `Linear` layers, would shrink.
#
# ## Fewer bits in the file
#
# The smallest step is to store the weights in half the bits, as `float16`. To use the file, copy it into a
# `float32` network: then no operation changes.

# %% tags=["nbval-ignore-output"]
import copy
import zlib
from dataclasses import replace

half = copy.deepcopy(TEACHER).half()
file = save(half.state_dict())
loaded = copy.deepcopy(TEACHER)
loaded.load_state_dict(load(file))  # copies into float32
table = variants.add("float16 file", loaded, len(file))
ms, spread = latency(half, image.half())
print(f"computing in float16, too: {ms:.1f} ms, spread {spread:.1f}")
table

# %% [markdown]
# Compare the two times. Many processors have no fast `float16` arithmetic: what is half as large can be many times slower.
# So store in `float16`, and compute in what the machine is good at.
#
# A quarter of the size needs integers. For each output channel, take the scale $s$ that fits its largest weight, and store
# $q$ instead of each weight $w$. With $b$ bits:
#
# $$s = \frac{\max |w|}{2^{b-1} - 1}, \qquad q = \mathrm{round}(w / s), \qquad w \approx s \cdot q$$

# %%
bits_guess = tl.guess(
    "How few bits per weight keep at least 98 of 100 answers?",
    ["eight or seven", "six or five", "four or three", "two"],
)


def to_int8(state, bits=8):
    """Store weights as integers, with one scale per output channel."""
    small = dict(state)  # biases and batch norms stay: they are few
    for name, w in state.items():
        if w.dim() > 1:
            sides = tuple(range(1, w.dim()))
            largest = w.abs().amax(sides, keepdim=True).clamp(min=1e-9)
            scale = largest / (2 ** (bits - 1) - 1)
            small[name] = (w / scale).round().to(torch.int8)
            small[f"{name} scale"] = scale
    return small


def to_float(small):
    """Return the float32 weights again."""
    names = [name for name in small if not name.endswith(" scale")]
    return {n: small[n] * small.get(f"{n} scale", 1) for n in names}


# %% tags=["nbval-ignore-output"]
file = save(to_int8(TEACHER.state_dict()))
loaded.load_state_dict(to_float(load(file)))
table = variants.add("int8 file", loaded, len(file))
same = {}
for bits in (8, 6, 5, 4, 3, 2):
    small = to_int8(TEACHER.state_dict(), bits)
    loaded.load_state_dict(to_float(small))
    same[f"{bits} bits"] = [variants.same(variants.logits(loaded))]
title = "Few bits per weight change many answers"
tl.plots.bars(same, xlabel="share of same answers", title=title, digits=3)
bits_guess.compare("; ".join(f"{b} {x:.3f}" for b, (x,) in same.items()))
ratio = variants["original"].megabytes / variants["int8 file"].megabytes
good = ratio > 3.8 and same["8 bits"][0] >= 0.98
tl.claim("int8: a quarter of the size, almost no answers change", good)
table

# %% [markdown]
# ## Compute with integers, too
#
# The file is small now, and no smaller with fewer bits here: each number still fills a byte. The network computes in `float32` as before. To be faster, activations have to be integers, too.
# Their scales come from watching the network on some training images. This is **static quantisation**. PyTorch is moving
# it to the package `torchao`; the steps stay: insert observers, show them images, convert.

# %% tags=["nbval-ignore-output"]
table = tl.Table([])
if quantization:
    from torch.ao.quantization import quantize_fx

    engine = torch.backends.quantized.engine
    mapping = quantization.get_default_qconfig_mapping(engine)
    torch.manual_seed(runtime.seed)
    order = torch.randperm(len(few.train))[:100].tolist()  # every class
    seen = torch.stack([few.plain().train[i][0] for i in order])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = copy.deepcopy(TEACHER)
        watched = quantize_fx.prepare_fx(model, mapping, (image,))
        watched(seen)  # notes the range of each activation
        integer = quantize_fx.convert_fx(watched)
        size = len(pickle.dumps(integer.state_dict()))
    table = variants.add("int8 arithmetic", integer, size)
    same = variants["int8 arithmetic"].same
    if MINI:
        tl.claim("computing in int8 keeps most answers", same > 0.95)
table

# %% [markdown]
# Compare the time with the original's, and mind the spread. The speed comes from code for one kind of processor
# (`torch.backends.quantized.engine`). With other code the same file may be slower: measure where the network will run.
#
# ## Pruning: zeros
#
# **Pruning** removes weights that matter little. The usual sign is a small absolute value.

# %%
zeros_guess = tl.guess(
    "Each layer's smaller half becomes zero. What is saved, unzipped?",
    ["space and time", "space", "time", "neither"],
)


# %% tags=["nbval-ignore-output"]
def prune(model, share):
    """Set the smallest weights of each layer to zero."""
    with torch.no_grad():
        for w in model.parameters():
            if w.dim() > 1:
                size = w.abs().flatten()
                limit = size.kthvalue(int(share * len(size))).values
                w[w.abs() <= limit] = 0


pruned = copy.deepcopy(TEACHER)
prune(pruned, 0.5)
full, file = (save(m.state_dict()) for m in (TEACHER, pruned))
zipped, zipped_full = len(zlib.compress(file)), len(zlib.compress(full))
table = variants.add("half zeros, zipped", pruned, zipped)
saved, speed = len(full) - len(file), variants["half zeros, zipped"].speed
zeros_guess.compare(f"{saved} bytes, {speed:.2f} times as fast")
print(f"zipped: original {zipped_full:,} bytes, half zeros {zipped:,}")
shrunk = len(file) == len(full) and zipped < 0.65 * zipped_full
tl.claim("zeros shrink only the zipped file", shrunk)
table

# %% [markdown]
# A zero takes as many bytes as any number, and is multiplied like one: a difference in time is noise here. Only a format or a processor made for zeros gains.
#
# ### Your turn
#
# `prune` takes the same share from every layer. Write `answer(model, share)`, which changes the model in place, with one limit for all layers
# together, so that layers with many small weights lose more. Leave tensors with fewer than two dimensions as they are.
#
# <details><summary>Solution</summary>
#
# ```python
# def answer(model, share):
#     layers = [w for w in model.parameters() if w.dim() > 1]
#     size = torch.cat([w.detach().abs().flatten() for w in layers])
#     limit = size.kthvalue(int(share * len(size))).values
#     with torch.no_grad():
#         for w in layers:
#             w[w.abs() <= limit] = 0
# ```
#
# Compare both on copies:
#
# ```python
# for function in prune, answer:
#     cut = copy.deepcopy(TEACHER)
#     function(cut, 0.7)
#     print(function.__name__, variants.same(variants.logits(cut)))
# ```
# </details>

# %%
answer = ...  # a function of a model and a share
tl.check("3.6b/one-limit", answer)

# %% [markdown]
# ## Pruning: channels
#
# What saves time is to remove whole channels. Between the first two convolutions of a residual block this is safe:
# nothing else reads them. Keep the half with the largest filters, then train a little, because the network has to
# adapt.


# %% tags=["nbval-ignore-output"]
def narrow(block, share):
    """Keep the channels between two convolutions with large filters."""
    size = block.conv1.weight.detach().flatten(1).norm(dim=1)
    keep = size.topk(int(share * len(size))).indices.sort().values
    for layer, side in (block.conv1, 0), (block.bn1, 0), (block.conv2, 1):
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.dim() > side:
                tensor.data = tensor.data.index_select(side, keep)


def half_the_channels(model, splits):
    """Start from the fine-tuned network; halve channels inside blocks."""
    model.load_state_dict(TEACHER.state_dict())
    for block in model.modules():
        if hasattr(block, "conv2"):
            narrow(block, 0.5)


again = replace(large, passes=5, weights=None, start=half_the_channels)
thin = again.fit(pets, LABELLED, runtime.seed)[0].cpu().eval()
variants.add("half the channels", thin, len(save(thin.state_dict())))

# %% [markdown]
# File and time shrink without any special software, and you can quantise the result. But `tl.models.create` can't build this
# network: whoever loads the weights needs the code that made it narrow, or an exported program, as below. The network with
# zeros was not trained again and this one was: don't compare their accuracies.
#
# ## Distillation
#
# A small network that learns from few labels learns little. But the large one can answer for every image that you have,
# without labels. In **distillation** a **student** learns the answers of a **teacher**. With logits $z_s$ and $z_t$ the
# loss is a cross-entropy $H$ between probabilities, which a temperature $T$ makes softer. The factor $T^2$ keeps the
# gradients about as large as at $T = 1$:
#
# $$L = T^2 \cdot H\left(\mathrm{softmax}(z_t / T),\ \mathrm{softmax}(z_s / T)\right)$$

# %%
from tlcourse.lessons.distillation import Distilled, distillation_loss
from torch.nn import functional as F

T = 2.0
student = tl.models.create(STUDENT, len(pets.classes), weights=None)
batch = variants.images[:16]
with torch.no_grad():
    logits = TEACHER(batch)
    soft = (logits / T).softmax(1)
loss = T**2 * F.cross_entropy(student(batch) / T, soft)
loss.backward()  # the rest is the training loop that you know
same = distillation_loss(student(batch), logits, T)
print("the package's loss is the same:", torch.isclose(loss, same).item())
student_guess = tl.guess(
    "The same student, the same number of steps. What helps it?",
    ["soft answers for the same images", "answers for more images", "none"],
)

# %% tags=["nbval-ignore-output"]
way = Distilled(
    large,
    lr=0.003,
    steps=400 if MINI else 4000,
    model=STUDENT,
    teachers={(LABELLED, runtime.seed): TEACHER},
)
ways, seeds = {"answers, all images": way}, [runtime.seed]
live = tl.experiments.compare(ways, pets, sizes=[LABELLED], seeds=seeds)
stored = tl.experiments.stored("distillation") if STORED else live
title = "Answers for more images help, and nobody labelled them"
title = title if STORED else "One student"
stored.plot(live=live, title=title, measured="student's accuracy, teacher")
student = way.fit(pets, LABELLED, runtime.seed).cpu()
variants.add("student", student, len(save(student.state_dict())))

# %% tags=["nbval-ignore-output"]
if STORED:
    few_images, all_images = "answers, same images", "answers, all images"
    softer = stored.difference(few_images, "labels")
    more = stored.difference(all_images, few_images)
    student_guess.compare(f"soft answers {softer}; more images {more}")
    bound = stored.difference(all_images, "labels for all images")
    print(f"against true labels for all images {bound}")
    helps = more.mean > more.margin
    tl.claim("a teacher's answers for unlabelled images help", helps)
    agree = live.agree_with(stored)
    tl.claim("this run lies where 99 of 100 such runs would", agree)

# %% [markdown]
# Dots are stored runs, the diamond is the run of your machine. `labels`: no teacher, the labels of a fifth of the images.
# `answers, same images`: the teacher's answers for these. `answers, all images`: its answers for all. `labels for all images`: as
# if somebody had labelled all. The number of steps is the same. The student is trained from scratch here. If a small network with pre-trained weights exists, fine-tune that one first: it
# may need no teacher.
#
# ## All variants

# %% tags=["nbval-ignore-output"]
variants.plot(title="Int8 keeps the accuracy at a quarter of the size")
variants.table()

# %% [markdown]
# The bars are intervals: the true accuracies that so few images support. Where they overlap, the share of the same
# answers may still tell two variants apart.
#
# ## The trap: exported in the wrong mode
#
# `torch.export` writes the operations themselves into a file, with the weights. Whoever loads it needs torch and none of
# your code, also for a narrowed network. Suppose you export after a loop of your own, and forget `eval()`.

# %%
export_guess = tl.guess(
    "Exported in training mode: what will the file do?",
    ["it answers as it should", "export refuses", "answers vary by batch"],
)

# %% tags=["nbval-ignore-output"]
model = copy.deepcopy(TEACHER).train()
images, answers = variants.images, variants.answers.clone()
example = (images[:8].clone(),)  # the file holds it: no view of more
wrong = torch.export.export(model, example).module()
orders = {"one class per batch": torch.arange(len(images))}
torch.manual_seed(runtime.seed)
orders["mixed"] = torch.randperm(len(images))
found = {}
with torch.inference_mode():
    for kind, order in orders.items():
        for rows in order.split(8):
            answers[rows] = wrong(images[rows])
        found[kind] = round(variants.same(answers), 2)
export_guess.compare(f"same answers {found}")
report = tl.examine(model, evaluating=True)
report

# %% [markdown]
# Batch norm uses the statistics of the batch, so an image's answer depends on the images beside it. With mixed batches few
# answers change, and a quick test can miss the fault. With one class per batch, as in a folder read in order, it is severe. An exported
# program's `eval()` refuses: set the mode before you export, and compare with the original on real images.
#
# The file holds neither the preprocessing nor the names of the classes. Hand them over with it.

# %% tags=["nbval-ignore-output"]
from pathlib import Path

Path("runs").mkdir(exist_ok=True)
path = Path("runs") / "pets.pt2"
model.eval().load_state_dict(TEACHER.state_dict())
torch.export.save(torch.export.export(model, example), path)
program = torch.export.load(path).module()
with torch.inference_mode():
    good = torch.cat([program(batch) for batch in images.split(8)])
gap = (good - variants.answers).abs().max().item()
print(f"{path.stat().st_size / 1e6:.1f} MB, largest difference {gap:.1e}")
tl.claim("exported in evaluation mode, the file is right", gap < 1e-3)
seen = bool(report.named("training-mode"))
left = tl.examine(model, evaluating=True).named("training-mode")
tl.claim("the doctor finds the mode, until repaired", seen and not left)

# %% [markdown]
# ONNX, the format of many other programs, is made from the same model with `torch.onnx.export(model, example, "pets.onnx")`
# and the packages `onnx` and `onnxscript`. Check it in the same way.
#
# ### Your turn
#
# This program takes eight images and refuses any other number. Export `model` so that it takes one image or many: the
# argument `dynamic_shapes` names the dimensions that may vary.
#
# <details><summary>Solution</summary>
#
# ```python
# batch = torch.export.Dim("batch")
# answer = torch.export.export(model, example, dynamic_shapes=[{0: batch}])
# ```
# </details>

# %%
answer = ...  # an exported program
tl.check("3.6b/any-batch", answer if answer is ... else (model, answer))

# %% [markdown]
# ## Your own images
#
# With a folder, the network is fine-tuned on your images first. The file is stored as `float16` and loads into `float32`. The test
# set is read once, with the network from the file, after the validation set: where images are few, both have wide intervals.

# %% tags=["nbval-ignore-output"]
FOLDER = None  # or "~/my-images"
mine, own = pets, TEACHER
if FOLDER:
    mine = tl.data.from_folder(FOLDER, model=backbone)
    own, _ = large.fit(mine, len(mine.train), runtime.seed)
path = Path("runs") / "small.safetensors"
tl.predict.save_checkpoint(path, copy.deepcopy(own).half(), mine.classes)
final, about = tl.predict.load_checkpoint(path)
for loader in mine.loaders()[1:]:  # validation set; test set, once
    print(tl.evaluation.evaluate(final, loader))
first = mine.test.sources[0]
found = tl.predict.predict_files(final, about["classes"], [first])[0]
print(f"one image: {found.label}, {found.probability:.2f}")

# %% [markdown]
# ## Take-away
#
# - Size and time are two things: measure both, and the share of the same answers.
# - Eight bits per weight are enough for the file. To compute faster with them needs integer arithmetic as well.
# - Zeros save nothing in a plain file. Removed channels save space and time.
# - A student learns from a teacher's answers for images that nobody labelled.
# - Export in evaluation mode, and compare the file's answers with the original's on real images.
#
# <details><summary>You quantise a ResNet dynamically, and the file stays as large. Why?</summary>
#
# Dynamic quantisation replaces linear layers. A ResNet's weights are in convolutions.
# </details>
#
# <details><summary>You store a network in half precision, and it becomes slower. What do you do?</summary>
#
# Keep the file, and copy the weights into a `float32` network before you compute.
# </details>
#
# <details><summary>A pruned network has the same accuracy. What don't you know yet?</summary>
#
# Whether anything is saved: look at the bytes and at the time. And whether the same images are right: compare the answers.
# </details>
#
# **Read on:** [Hinton and others, *Distilling the knowledge in a neural
# network*](https://arxiv.org/abs/1503.02531); [Han and others, *Deep compression*](https://arxiv.org/abs/1510.00149);
# [Nagel and others, *A white paper on neural network quantization*](https://arxiv.org/abs/2106.08295). Next: 3.7, beyond
# the chapter.
