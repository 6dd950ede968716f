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
# # Exercise 4: design the augmentation
#
# Augmentation changes training images in ways that must not change their label. Which ways those are depends on the
# images. You write the transforms for faces, for tiles seen from above, and for letters, and one for evaluation. Then you measure what
# augmentation gains.
#
# **Difficulty:** medium. **Time:** about 35 minutes, and one minute to run. **Builds on** 3.2.
#
# **It trains you to** say what a label survives, to write that as a transform, and to look at what the transform really does.
#
# Each step ends with a check. It runs your transform on images with known values and measures where each value goes, so spell
# it as you like. `tl.hint("ex4/keeps")` gives a hint, a stronger one each time; `tl.solution("ex4/keeps")` shows one answer.
# Unanswered steps say *not yet*.

# %% [markdown]
# ## Step 1: what does the label survive?
#
# Here are four letters, and what becomes of them in a mirror.

# %%
from PIL import Image, ImageDraw, ImageFont, ImageOps


def letter(text):
    """Draw a letter on white, 96 x 96 pixels."""
    image = Image.new("RGB", (96, 96), "white")
    font = ImageFont.load_default(80)
    left, top, right, bottom = font.getbbox(text)
    middle = 48 - (left + right) / 2, 48 - (top + bottom) / 2
    ImageDraw.Draw(image).text(middle, text, "black", font)
    return image


letters = [letter(text) for text in "bdpq"]
tl.plots.images(
    letters + [ImageOps.mirror(image) for image in letters],
    [*"bdpq", *(f"{text}, mirrored" for text in "bdpq")],
    columns=4,
    title="In a mirror, each letter looks like another one",
)

# %%
letter_guess = tl.guess(
    "Turn the b upside down, by half a turn. What does it look like?",
    ["a d", "a p", "a q"],
)

# %%
import numpy as np

turned = np.asarray(letters[0].rotate(180, fillcolor="white"), float)
gaps = [np.abs(turned - np.asarray(one, float)).mean() for one in letters]
letter_guess.compare(f"most like {'bdpq'[int(np.argmin(gaps))]}")

# %% [markdown]
# **From the chapter.** Its second example mirrors half of the training images, and its answer to this exercise mirrors faces where
# people are to be recognised. But nobody's face is symmetric: whether a mirror is of use depends on the label.
#
# A change is of use if the label stays **and** if such an image could have been taken. Ignore the empty corners that turns leave: they come in step 3. Which of the changes `"mirror"` (left and right),
# `"half turn"`, `"quarter turn"` and `"small turn"` (up to ten degrees) are of use for upright **faces** seen from the front, labelled
# by whether they smile; for **tiles** of land seen from above, with its use as the label; for the **letters** b, d, p and q?

# %%
answer = ...  # {"faces": {...}, "tiles": {...}, "letters": {...}}
### BEGIN SOLUTION
answer = {
    "faces": {"mirror", "small turn"},
    "tiles": {"mirror", "half turn", "quarter turn", "small turn"},
    "letters": {"small turn"},
}
### END SOLUTION
tl.check("ex4/keeps", answer)

# %% [markdown]
# ## Step 2: faces
#
# From here on, you write functions that return a transform. It takes a PIL image and gives a float tensor `(3, 64, 64)` with
# values between zero and one. Each call draws anew.
#
# Faces are mirrored left and right in half of the draws, turned by up to 15 degrees in both directions, never more, and their brightness
# varies. A crop keeps at least two thirds of the area; corners that a turn cuts off don't count.

# %%
import torch
from torchvision.transforms import v2

TO_TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def faces():
    """Return the training transform for faces."""
    ### BEGIN SOLUTION
    return v2.Compose(
        [
            v2.RandomRotation(15),
            v2.RandomResizedCrop(64, scale=(0.7, 1), ratio=(0.9, 1.1)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3),
            *TO_TENSOR,
        ]
    )
    ### END SOLUTION


tl.check("ex4/faces", faces)

# %% [markdown]
# ## Step 3: tiles
#
# **From the chapter.** Its answer for tiles has `RandomRotation([0, 90, 180, 270])`. That raises an error, because the argument
# is a range with two ends.
#
# A tile has no up. All eight orientations are equally likely: the four quarter turns, each mirrored or not. Nothing
# is left empty, so there are no other angles. Here the colours tell forest from water, so they stay as they are. At
# least half of the area stays in view.


# %%
def tiles():
    """Return the training transform for tiles."""
    ### BEGIN SOLUTION
    quarter_turns = [v2.RandomRotation((k, k)) for k in (0, 90, 180, 270)]
    return v2.Compose(
        [
            v2.Resize((64, 64)),
            v2.RandomChoice(quarter_turns),
            v2.RandomHorizontalFlip(),
            *TO_TENSOR,
        ]
    )
    ### END SOLUTION


verdict = tl.check("ex4/tiles", tiles)
verdict

# %%
land = tl.data.load("landuse", model=tl.models.create("tl_resnet", 4))
if verdict.outcome == "right":
    torch.manual_seed(0)
    tl.plots.images(
        [
            land.train.raw(3),
            *(tiles()(land.train.raw(3)) for _ in range(7)),
        ],
        ["the tile"] + ["a draw"] * 7,
        columns=4,
        title="Turned and mirrored, a tile is still the same land",
    )

# %% [markdown]
# ## Step 4: letters
#
# Letters are never mirrored. They are turned by up to ten degrees in both directions, and moved by up to a tenth of the side,
# to the left and right as well as up and down; the three are drawn separately. Their size and shape stay the same. Empty corners get the colour of the paper, white.


# %%
def letter_transform():
    """Return the training transform for letters."""
    ### BEGIN SOLUTION
    move = v2.RandomAffine(10, translate=(0.1, 0.1), fill=255)
    return v2.Compose([move, v2.Resize((64, 64)), *TO_TENSOR])
    ### END SOLUTION


tl.check("ex4/letters", letter_transform)

# %% [markdown]
# ## Step 5: evaluation
#
# At evaluation nothing is drawn: the same image always gives the same tensor. For `tl_resnet`, the shorter side becomes 64 pixels, and
# the middle 64 x 64 pixels are kept. Then the values are **normalised**: minus `MEAN`, divided by `STD`. Normalising comes last,
# because it works on floats between zero and one.

# %%
wants = tl.preprocessing.get_preprocessing(tl.models.create("tl_resnet", 4))
MEAN, STD = wants.mean, wants.std


def evaluation():
    """Return the transform for evaluation."""
    ### BEGIN SOLUTION
    return v2.Compose(
        [
            v2.Resize(64),
            v2.CenterCrop(64),
            *TO_TENSOR,
            v2.Normalize(MEAN, STD),
        ]
    )
    ### END SOLUTION


tl.check("ex4/evaluation", evaluation)

# %% [markdown]
# ## Step 6: what does it gain?
#
# `fine_tune` trains all layers on few tiles, with a transform of yours for training and the package's for evaluation. It
# measures on validation images; the test set is not read. A backbone wants normalised values in training, too.


# %%
def fine_tune(make_transform, splits, images, seed):
    """Train with a transform, and measure without it."""
    torch.manual_seed(seed)
    few = splits.plain().take(train=images, val=100, seed=seed)
    steps = [make_transform(), v2.Normalize(MEAN, STD)]
    train = few.train.with_transform(v2.Compose(steps))
    loader = torch.utils.data.DataLoader(train, 16, shuffle=True)
    model = tl.models.create("tl_resnet", len(splits.classes))
    groups = tl.models.param_groups(model, 0.003, layer_decay=0.7)
    optimizer = torch.optim.AdamW(groups)
    for _ in range(5):
        for inputs, labels in loader:
            model.train()
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tl.train.evaluate(model, few.loaders(50).val)


def plain():
    """Return a transform that draws nothing."""
    return v2.Compose([v2.Resize((64, 64)), *TO_TENSOR])


gain_guess = tl.guess(
    "Forty tiles: what do the eight orientations do to the accuracy?",
    ["it rises", "no difference that can be shown", "it falls"],
)

# %% [markdown]
# Compare two ways, `"plain"` and `"augmented"`, with `tl.experiments.compare`: on `land`, with `40` training images and
# five seeds, `runtime.seeds(5)`. It calls each way with `(splits, images, seed)`, so fix the first argument of `fine_tune` with
# `functools.partial`. It runs for about half a minute.
#
# Then conclude: `"better"`, `"worse"`, or `"no difference shown"`. The answer is the pair of runs and conclusion. It is
# right when your runs support it, whichever it is.

# %% tags=["nbval-ignore-output"]
from functools import partial

answer = ...  # a pair: the runs, and your conclusion
### BEGIN SOLUTION
ways = {
    "plain": partial(fine_tune, plain),
    "augmented": partial(fine_tune, tiles),
}
runs = tl.experiments.compare(
    ways, land, sizes=[40], seeds=runtime.seeds(5)
)
gain = runs.difference("augmented", "plain")
conclusion = "no difference shown"
if gain.clear:
    conclusion = "better" if gain.mean > 0 else "worse"
gain_guess.compare(f"{conclusion}: {gain}")
answer = runs, conclusion
### END SOLUTION
tl.check("ex4/gain", answer)

# %% [markdown]
# Both ways have the same rate and number of passes, tuned for neither. Augmented images are harder to learn, so a longer training could
# change the result. And the backbone came with augmentation of its own: from scratch, expect another answer.
#
# ## What you take with you
#
# - A change is of use if the label stays, and if such an image could have been taken.
# - Look at what a transform does: a few draws show a wrong mirror at once.
# - Random changes first, then the tensor, and normalising last.
# - Evaluation draws nothing.
# - Whether augmentation helps is a measurement, not a rule.
#
# `tl.progress(reset="ex4")` forgets what you did here, to start again.

# %%
tl.progress("ex4")
