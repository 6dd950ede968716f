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
# # Exercise 3: choose a model
#
# Three people ask you for a network: one for a phone, one who wants the highest accuracy, and one who wants a balance. You
# measure what candidates cost on this machine, keep those that no other beats, choose within limits, and say how
# sure the choice is.
#
# **Difficulty:** medium. **Time:** about 35 minutes, and one minute to run. **Builds on** 3.4 and 3.5.
#
# **It trains you to** measure size and time so that the numbers can be compared, to choose by a rule that you can write
# down, and to see which differences in accuracy are too small to decide.
#
# Each step ends with a check. It looks at what your code does, so spell it as you like. `tl.hint("ex3/size")` gives
# a hint, a stronger one each time; `tl.solution("ex3/size")` shows one answer. Unanswered steps say *not yet*.

# %% [markdown]
# ## Step 1: what has to be stored
#
# **From the chapter.** It gives the memory of a network as its parameters times four bytes. A file of weights holds more
# than parameters: batch norm also keeps a mean and a variance for each channel. And not every number has four bytes.
#
# Write a function of a network that returns two numbers: how many parameters it has, and how many bytes all tensors of its
# `state_dict` take. A buffer that was registered with `persistent=False` is in no state dict.

# %%
import torch


def size(model):
    """Return the number of parameters, and the bytes of all tensors."""
    ### BEGIN SOLUTION
    parameters = sum(p.numel() for p in model.parameters())
    tensors = model.state_dict().values()
    return parameters, sum(t.numel() * t.element_size() for t in tensors)
    ### END SOLUTION


verdict = tl.check("ex3/size", size)
verdict

# %% [markdown]
# How far off is the chapter's number? This cell says so once your function is right.

# %%
import timm

bytes_guess = tl.guess(
    "For mobilenetv3_small_100, parameters times four bytes is",
    ["a little too small", "right", "a little too large"],
)
if verdict.outcome == "right":
    parameters, stored = size(timm.create_model("mobilenetv3_small_100"))
    bytes_guess.compare(f"{4 * parameters / stored - 1:+.1%}")

# %% [markdown]
# ## Step 2: how long one image takes
#
# Write a function of a network, a batch of one image and a number of repeats. It returns the **median** time of a
# call, in **milliseconds**. One call comes before, and isn't measured; then come `repeats` calls. The network is in evaluation mode, no gradients are recorded,
# and afterwards the network is in the mode in which it came.

# %%
import statistics
import time


def latency(model, image, repeats):
    """Return the median time of a call, in milliseconds."""
    ### BEGIN SOLUTION
    was_training, times = model.training, []
    model.eval()
    with torch.inference_mode():
        model(image)
        for _ in range(repeats):
            start = time.perf_counter()
            model(image)
            times.append(time.perf_counter() - start)
    model.train(was_training)
    return 1000 * statistics.median(times)
    ### END SOLUTION


tl.check("ex3/latency", latency)

# %% [markdown]
# ## The candidates
#
# The table holds networks of timm with the accuracy on ImageNet that timm has published for their default weights, each
# at the image size of that measurement. The weights themselves aren't needed: time depends on the architecture alone.
# Here the networks take turns, as in 3.4, so that a slow moment of the machine meets all of them. `spread` is the
# range of the middle half of the times.

# %%
time_guess = tl.guess(
    "resnet50 has more than four times the parameters of efficientnet_b0. "
    "Which takes longer for one image, here?",
    ["efficientnet_b0", "resnet50, up to four times", "resnet50, more"],
)

# %% tags=["nbval-ignore-output"]
NAMES = ["mobilenetv3_small_100", "mobilenetv3_large_100"]
NAMES += ["efficientnet_lite0", "efficientnet_b0", "resnet18", "resnet50"]
NAMES += ["vit_tiny_patch16_224", "vit_small_patch16_224", "convnext_tiny"]
NAMES += ["efficientnetv2_rw_t", "efficientnetv2_rw_s"]
networks = {name: timm.create_model(name) for name in NAMES}
found = {row["model"]: row for row in tl.cost.published()}
tags = {name: timm.get_pretrained_cfg(name).tag for name in NAMES}
rows = [found[f"{name}.{tag}"] for name, tag in tags.items()]
sizes = {n: row["image size"] for n, row in zip(NAMES, rows, strict=True)}
times = tl.cost.seconds(networks, sizes, repeats=5)
table = tl.Table()
for name, row in zip(NAMES, rows, strict=True):
    low, middle, high = statistics.quantiles(times[name], n=4)
    cost = {
        "parameters": tl.models.count(networks[name].parameters()) / 1e6,
        "latency": 1000 * middle,
        "spread": 1000 * (high - low),
    }
    table.append({"model": name} | cost | {"accuracy": row["top-1"]})
print("M parameters, ms for one image, % published on ImageNet")
table

# %% tags=["nbval-ignore-output"]
by_name = {row["model"]: row for row in table}
large, small = by_name["resnet50"], by_name["efficientnet_b0"]
ratio = large["latency"] / small["latency"]
time_guess.compare(f"resnet50 takes {ratio:.1f} times as long")

# %% [markdown]
# ## Step 3: the front of three numbers
#
# In 3.4, the front weighed one cost against the accuracy. A phone has two: space and time. A network is **dominated** if
# another one is at least as good in all three (parameters, latency, accuracy) and better in at least one. Write a function of
# a table that returns a list of the names of all networks that aren't dominated. A row is a dictionary with the keys `model`,
# `parameters` (in millions), `latency` and `spread` (in milliseconds), and `accuracy` (in percent).


# %%
def front(table):
    """Return the names of all networks that no other dominates."""

    ### BEGIN SOLUTION
    def numbers(row):  # the lower, the better
        return row["parameters"], row["latency"], -row["accuracy"]

    def dominates(other, row):
        pairs = list(zip(numbers(other), numbers(row), strict=True))
        return all(a <= b for a, b in pairs) and any(
            a < b for a, b in pairs
        )

    return [
        row["model"]
        for row in table
        if not any(dominates(other, row) for other in table)
    ]
    ### END SOLUTION


verdict = tl.check("ex3/front", front)
verdict

# %% tags=["nbval-ignore-output"]
if verdict.outcome == "right":
    names = front(table)
    dominated = [name for name in NAMES if name not in names]
    print(f"{len(names)} of {len(NAMES)} are left; dominated:", *dominated)
    tl.plots.tradeoff(
        {row["model"]: (row["latency"], row["accuracy"]) for row in table},
        tl.cost.front(
            {
                n: (by_name[n]["latency"], by_name[n]["accuracy"])
                for n in names
            }
        ),
        named=names,
        xlabel="milliseconds for one image, on this machine",
        ylabel="published accuracy on ImageNet, in %",
        title="The line is the front of time alone: size can add others",
    )

# %% [markdown]
# ## Step 4: three choices
#
# Write a function of a table that returns a dictionary with a name for each of the three, or None where nothing fits:
#
# - `"phone"`: the most accurate network with at most six million parameters, and at most half of `resnet50`'s latency;
# - `"accuracy"`: the most accurate network, whatever it costs;
# - `"balance"`: the most accurate network that takes at most as long as `resnet50`.
#
# A measured time is uncertain. A network is within a limit only if its latency **plus its spread** is; the limit is `resnet50`'s
# latency, without spread. Of two networks with the same accuracy, the one with the lower latency is chosen.
# `resnet50` itself is a candidate for the highest accuracy.

# %%
balance_guess = tl.guess(
    "The chapter's balanced choice is efficientnetv2_rw_s or "
    "convnext_tiny. How many of them take at most resnet50's time, here?",
    ["none", "one", "both"],
)


# %%
def choose(table):
    """Return the names for "phone", "accuracy" and "balance"."""
    ### BEGIN SOLUTION
    (limit,) = (r["latency"] for r in table if r["model"] == "resnet50")

    def best(parameters=float("inf"), latency=float("inf")):
        fits = [
            (row["accuracy"], -row["latency"], row["model"])
            for row in table
            if row["parameters"] <= parameters
            and row["latency"] + row["spread"] <= latency
        ]
        return max(fits)[-1] if fits else None

    phone = best(parameters=6, latency=limit / 2)
    balance = best(latency=limit)
    return {"phone": phone, "accuracy": best(), "balance": balance}
    ### END SOLUTION


verdict = tl.check("ex3/choose", choose)
verdict

# %% tags=["nbval-ignore-output"]
if verdict.outcome == "right":
    print("on this machine:", choose(table))
theirs = ["efficientnetv2_rw_s", "convnext_tiny"]
fits = [n for n in theirs if by_name[n]["latency"] <= large["latency"]]
balance_guess.compare(f"{len(fits)} of the two")
for name in ("efficientnet_lite0", "mobilenetv3_large_100", *theirs):
    share = by_name[name]["latency"] / large["latency"]
    print(f"{name:22} takes {share:.2f} of resnet50's time")
best = found["convnext_large.fb_in22k_ft_in1k"]["top-1"]
print(f"convnext_large, published: {best:.2f} %")

# %% [markdown]
# **From the chapter.** It names networks without a limit or a measurement, so nobody can say whether they fit. Its network for the highest
# accuracy, `convnext_large`, isn't in the table because it would take too long here. Its published accuracy stands
# in the last line.
#
# ## Step 5: defend it
#
# Is the choice more accurate than the runner-up, or was it luck? Each accuracy was measured on $n$ images. With $p$ as a
# share, its squared standard error is $p (1 - p) / n$. Write a function of two accuracies in **percent** and of $n$. It returns
# whether they differ by more than two standard errors of their difference, where squared errors add up:
#
# $$|p_1 - p_2| > 2 \sqrt{\frac{p_1 (1 - p_1)}{n} + \frac{p_2 (1 - p_2)}{n}}$$


# %%
def separated(first, second, n):
    """Return whether n images tell two accuracies in percent apart."""
    ### BEGIN SOLUTION
    shares = [first / 100, second / 100]
    error = sum(p * (1 - p) / n for p in shares) ** 0.5
    return abs(shares[0] - shares[1]) > 2 * error
    ### END SOLUTION


verdict = tl.check("ex3/separated", separated)
verdict

# %%
import itertools

IMAGES = {"ImageNet": 50_000, "your test set": 200}
if verdict.outcome == "right":
    ordered = sorted(table, key=lambda row: -row["accuracy"])
    for one, other in itertools.pairwise(ordered):
        pair = one["accuracy"], other["accuracy"]
        seen = [name for name, n in IMAGES.items() if separated(*pair, n)]
        print(
            f"{one['model']:22} {pair[0] - pair[1]:.2f} points before",
            f"{other['model']:22} seen on: {', '.join(seen) or 'neither'}",
        )

# %% [markdown]
# The same images were used for both networks, so a paired comparison would see smaller differences. But nobody has published which
# images each of them gets right.
#
# What none of these numbers knows is your images. [Kornblith and others](https://arxiv.org/abs/1805.08974) found that better
# networks on ImageNet are often better elsewhere, and not always. And some of these weights have seen more images than
# others: `in12k` and `augreg_in21k` in a tag say so. So choose two or three, and compare them on your validation images, with several seeds.
#
# ## What you take with you
#
# - A file holds all tensors of the state dict, not the parameters alone.
# - Warm up, repeat, take the median, and say on which machine.
# - Apply the limits, then take the most accurate. The front shows what can be the best, whatever limits these numbers have.
# - A difference that your test set can't see shouldn't decide. Then take the cheaper network.
#
# `tl.progress(reset="ex3")` forgets what you did here, to start again.

# %%
tl.progress("ex3")
