"""Hints for exercise 4, "Design the augmentation"."""

HINTS = {
    "ex4/keeps": (
        (
            "Go through the four changes for each kind of image, and ask two questions: does the label stay, and "
            "would somebody take such an image?"
        ),
        (
            "The figure above shows what a mirror makes of each letter, and the guess what half a turn makes of a"
            " b. A tile seen from above has no up, and a face does."
        ),
        (
            "Every change is of use for tiles. For letters only one is: the smallest. Faces keep their label in a"
            " mirror, and people tilt their heads, but upright faces don't lie on their side or stand on their "
            "heads."
        ),
    ),
    "ex4/faces": (
        (
            "Draw the same image ten times and plot the results: which of the four demands do you see? The "
            "function returns the transform itself; don't apply it inside."
        ),
        (
            "Four random parts: `v2.RandomRotation`, `v2.RandomResizedCrop`, `v2.RandomHorizontalFlip` and "
            "`v2.ColorJitter`. The defaults of two of them ask for more than the task allows."
        ),
        (
            "`v2.RandomRotation(15)`, then `v2.RandomResizedCrop(64, scale=(0.7, 1), ratio=(0.9, 1.1))`, "
            "`v2.RandomHorizontalFlip()` and `v2.ColorJitter(brightness=0.3)`, then `*TO_TENSOR`, all in one "
            "`v2.Compose`."
        ),
    ),
    "ex4/tiles": (
        (
            "There are four quarter turns, and each of them mirrored. A rotation by a random angle is something "
            "else: it leaves corners empty."
        ),
        (
            "`v2.RandomChoice` draws one of several transforms. `v2.RandomRotation((90, 90))` turns by 90 degrees"
            " and never by anything else."
        ),
        (
            "`v2.RandomChoice([v2.RandomRotation((k, k)) for k in (0, 90, 180, 270)])`, then "
            "`v2.RandomHorizontalFlip()`. Before them `v2.Resize((64, 64))`, after them `*TO_TENSOR`. No change "
            "of colour."
        ),
    ),
    "ex4/letters": (
        (
            "One transform turns and moves at the same time. Look at its argument for empty places: what colour "
            "is the paper?"
        ),
        (
            "`v2.RandomAffine` takes the largest angle in degrees, and `translate` as a share of the width and of"
            " the height. Leave `scale` out: the size stays."
        ),
        (
            "`v2.RandomAffine(10, translate=(0.1, 0.1), fill=255)` on the PIL image, whose white is 255, then "
            "`v2.Resize((64, 64))` and `*TO_TENSOR`. No flip anywhere."
        ),
    ),
    "ex4/evaluation": (
        (
            "Nothing in it is random. Print the smallest and the largest value of the result, and give it an "
            "image that isn't square."
        ),
        (
            "`v2.Resize(64)` with one number makes the shorter side 64 pixels; with two numbers it squashes. Then"
            " the middle is cropped. `v2.Normalize` works on floats between zero and one."
        ),
        (
            "`v2.Compose([v2.Resize(64), v2.CenterCrop(64), *TO_TENSOR, v2.Normalize(MEAN, STD)])`: the order is "
            "image, tensor, floats, normalised values."
        ),
    ),
    "ex4/gain": (
        (
            "`tl.experiments.compare` runs every way with every seed and returns a table of runs; "
            "`runs.difference(a, b)` pairs the two ways seed by seed, and prints an interval."
        ),
        (
            "The ways are named 'plain' and 'augmented': `partial(fine_tune, plain)` and `partial(fine_tune, "
            "tiles)`. A difference is shown only where its interval leaves out zero: that is what `.clear` says."
        ),
        (
            "`gain = runs.difference('augmented', 'plain')`. The conclusion is 'better' if it is clear and "
            "`gain.mean` is above zero, 'worse' if it is clear and below, and else 'no difference shown'. Return "
            "`(runs, conclusion)`."
        ),
    ),
}
