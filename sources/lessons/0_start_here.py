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
# with few images. Everything runs on a laptop without a network, and at full size on a GPU.
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
machine = tl.lessons.check_machine()
display(machine)
tl.claim("this machine is ready for the course", machine.ok)

# %% [markdown]
# ## The map of the course
#
# The chapters of most books on this subject go the same way: from the idea to a project. Minutes count reading and
# running.

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
    )
)

# %% [markdown]
# ## A first result
#
# These are **toy pets**, drawn by this course's own 3-D renderer. You train the same network on the same few images in
# three ways: **from scratch**, with random weights; with a **frozen** pre-trained network and a new last layer, the
# **head**; and **fine-tuned**, where the pre-trained weights train further.

# %%
backbone = tl.models.create("tl_resnet").to(runtime.device)
pets = tl.data.load("toypets", model=backbone)
tl.plots.images(
    [pets.train.raw(i) for i in (0, 1, -1, -2, 2)],
    [pets.classes[pets.train.labels[i]] for i in (0, 1, -1, -2, 2)],
    title="Toy cats and toy dogs",
)

# %% [markdown]
# Before a cell that measures something, you **guess**. A guess that turns out wrong is what you remember best. Press a
# button, then run the next cell.

# %%
guess = tl.guess(
    "A hundred training images, half of them cats: which way does best?",
    ["from scratch", "frozen", "fine-tuned", "all the same"],
)

# %% tags=["nbval-ignore-output"]
IMAGES = 100
Trained = tl.experiments.Trained
ways = {
    "scratch": Trained(lr=0.001, passes=10, weights=None),
    "frozen": tl.experiments.Probe(backbone),
    "fine-tuned": Trained(lr=0.001, passes=10, layer_decay=0.7),
}
runs = tl.experiments.compare(
    ways, pets, sizes=[IMAGES], seeds=runtime.seeds(1)
)
accuracy = {way: next(iter(runs.accuracies(way).values())) for way in ways}
guess.compare(
    ", ".join(f"{way} {value:.2f}" for way, value in accuracy.items())
)
runs.plot(
    chance=0.5, title="Both ways to start from a pre-trained network help"
)

# %% [markdown]
# The accuracy is measured on the **validation set**: images that are not trained on, and that you may look at as often as
# you like. The **test set** is for the end of a project, and every lesson reads it once at most.
#
# A green line marks a **claim**: a sentence that the notebook checks while it runs. If your run disagrees, the cell stops.

# %% tags=["nbval-ignore-output"]
lead = min(accuracy["frozen"], accuracy["fine-tuned"]) - accuracy["scratch"]
tl.claim(
    "with these images, both ways are better than training from scratch",
    lead > 0.08,
    f"by {lead:.2f} or more, one run each",
)

# %% [markdown]
# One run says little about which of the two is better. The lessons repeat their runs with other images and give the
# difference with its interval.
#
# ## Your turn
#
# Two or three times in a lesson, you write something yourself. Replace the three dots and run the cell: it says *not
# yet*, *not right, because …*, or *right, and why it matters*. Try it: of which set of images are the accuracies above,
# `"training"`, `"validation"` or `"test"`?
#
# <details><summary>Solution</summary>
#
# ```python
# answer = "validation"
# ```
# </details>

# %%
answer = ...  # "training", "validation" or "test"
tl.check("0/set", answer)

# %% [markdown]
# ## How to go on
#
# - Where a lesson says **from the chapter**, it looks at the text that this course follows, and shows what is wrong in it.
# - Open the lessons in the order of the map. Restart the kernel and run from the top when something looks odd.
# - In a terminal, `tlcourse run 3.2` runs a whole lesson and lists its claims.
# - On your own set-up, `tl.examine(model, optimizer, data)` looks for mistakes; `tlcourse doctor FILE` reads a script.
#
# Next: 3.1, what transfer learning is, or 3.2, if you want to use it at once.
