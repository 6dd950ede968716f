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
# # 0 Start here
#
# This course teaches transfer learning: how to start from a network that somebody else has trained, and make it yours
# with few images.
#
# The course has two **profiles**. `mini` runs on a laptop without an internet connection. `full` uses real images and
# large networks, which it downloads, and is meant for a GPU: the course chooses it where it finds one. To stay with `mini`, write
# `tl.setup("mini")` in the first cell.
#
# **You will be able to** check that your machine is ready, get a first result, and use what every lesson uses: guess,
# run, your turn, check.
#
# **Time:** ten minutes to read, half a minute to run. **You need:** PyTorch's basics: tensors, `nn.Module`, a training
# loop.

# %% [markdown]
# ## Is this machine ready?
#
# Each line says OK, or what to do.

# %% tags=["nbval-ignore-output"]
tl.lessons.check_machine()

# %% [markdown]
# ## The map of the course
#
# Minutes are for reading; running adds about one.

# %%
tl.Table(
    {
        "lesson": name,
        "you learn": learn,
        "minutes": minutes,
        "builds on": after,
    }
    for name, learn, minutes, after in (
        ("3.1", "what transfers, and when it does not", 25, "0"),
        ("3.2", "a new head on a frozen backbone", 25, "0"),
        ("3.3", "fine-tuning, stage by stage", 25, "3.2"),
        ("3.3b", "learning rates over time", 25, "3.3"),
        ("3.4", "choosing a network by its cost", 25, "3.2"),
        ("3.5", "timm: one interface for all networks", 25, "3.4"),
        ("3.6", "a project, from a folder to a file", 25, "3.3"),
        ("3.6b", "smaller models", 25, "3.6"),
        ("3.7", "beyond the chapter", 25, "3.3"),
    )
)

# %% [markdown]
# ## A first result
#
# These are **toy pets**, drawn by this course's own 3-D renderer. You train one kind of network on them in three ways, with the same
# few images: **from scratch**, with random weights; **frozen**, where the weights are **pre-trained** and stay as they are, and a
# new last layer, the **head**, is fitted; and **fine-tuned**, where the pre-trained weights train further. Pre-trained means
# that somebody has trained them before, here on Tiny ImageNet: small images of many kinds of things,
# real cats and dogs among them, but none of these toys. The two trained ways get ten passes; the frozen head is fitted until its loss stops
# falling.

# %%
backbone = tl.models.create("tl_resnet").to(runtime.device)
pets = tl.data.load("toypets", model=backbone)
tl.plots.images(
    [pets.train.raw(i) for i in (0, 1, -1, -2, 2)],
    [pets.classes[pets.train.labels[i]] for i in (0, 1, -1, -2, 2)],
    title="Toy cats and toy dogs differ in shape",
)

# %% [markdown]
# Before a cell that measures something, you **guess**: then you can compare what you expected with what came out. Press a
# button, then run the next cell.

# %%
guess = tl.guess(
    "A hundred training images, half of them cats, ten passes. Which "
    "validation accuracy does a network trained from scratch reach?",
    ["about 0.5, as by guessing", "about 0.65", "about 0.8"],
)

# %% tags=["nbval-ignore-output"]
IMAGES = 100
Trained = tl.experiments.Trained
ways = {
    "scratch": Trained(lr=0.001, passes=10, weights=None),
    "frozen": tl.experiments.Probe(backbone),
    "fine-tuned": Trained(lr=0.001, passes=10),
}
runs = tl.experiments.compare(
    ways, pets, sizes=[IMAGES], seeds=runtime.seeds(1)
)
accuracy = {way: next(iter(runs.accuracies(way).values())) for way in ways}
guess.compare(f"{accuracy['scratch']:.3f}")
runs.plot(
    chance=0.5,
    title="Ten passes from scratch are far behind (one run each)",
)

# %% [markdown]
# The accuracy is measured on the **validation set**: images that are not trained on. You use them to choose between ways, so
# your choices fit them a little. That is why there is also a **test set**, which is read once, at the end.
#
# A green line marks a **claim**: a sentence that the notebook checks while it runs. If your run disagrees, the cell stops.
# Then restart the kernel and run from the top; if it stops again, the lesson is wrong for your machine: report it.

# %% tags=["nbval-ignore-output"]
lead = min(accuracy["frozen"], accuracy["fine-tuned"]) - accuracy["scratch"]
tl.claim(
    "after ten passes, from scratch is behind frozen and fine-tuned",
    lead > 0.15,
    f"by {lead:.2f} or more, one run each",
)

# %% [markdown]
# Ten passes are few for a new network: 3.2 gives it more, and more images. And one run doesn't say which of the other two is
# better. The lessons repeat their runs with other images and give the difference with its interval.
#
# ## Your turn
#
# Two or three times in a lesson, you write something yourself. Replace the three dots and run the cell: it says *not
# yet*, *not right, because …*, or *right, and why it matters*. Try it: which set were the accuracies above measured on,
# `"training"`, `"validation"` or `"test"`?

# %%
answer = ...  # "training", "validation" or "test"
tl.check("0/set", answer)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer = "validation"
# ```
# </details>
#
# ## How to go on
#
# - The course follows a textbook chapter on transfer learning. Where a lesson says **from the chapter**, it shows what is wrong
#   there.
# - Open the lessons in the order of the map. Restart the kernel and run from the top when something looks odd.
# - In a terminal, `tlcourse run 3.2` runs a whole lesson and lists its claims.
# - On your own set-up, `tl.examine(model, optimizer, data)` looks for mistakes; `tlcourse doctor FILE` reads a script.
#
# Next: 3.1, what transfer learning is, or 3.2, if you want to use it at once.
