"""What functions of exercise 1 are tried on: made-up costs, and made-up runs with ties, few seeds and unequal seeds."""

from collections.abc import Iterable

import numpy as np

from tlcourse.lessons.comparison import Runs
from tlcourse.table import Table

WAYS = ("frozen", "last stage", "fine-tuned")
# Cost by part, parts that train, images, budget: with a rest, with none, too small, and with names in names.
COSTS = (
    ({"conv1": 41, "layer1": 193, "layer4": 307, "fc": 11}, ("layer4", "fc"), 13, 10_000_003),
    ({"conv1": 4, "layer1": 19, "layer4": 30, "fc": 1}, ("layer4", "fc"), 10, 1_160_000),
    ({"stem": 7, "blocks.0": 20, "blocks.1": 40, "head": 3}, ("stem", "blocks.0", "blocks.1", "head"), 24, 20_000),
    ({"head": 2, "body": 98, "stem": 10}, ["head"], 50, 17_000),
    ({"a": 900_000, "b": 30_000_001, "c": 5}, ("c", "b"), 7, 1_900_000_000),
    ({"conv1": 40, "layer4": 30, "fc": 1}, ("layer4", "fc"), 30, 2_000),
    ({"conv1": 4, "layer1": 19, "layer10": 60, "fc": 1}, ("layer1", "fc"), 10, 1_000_000),
)
BASE = np.array([0.61, 0.58, 0.66, 0.63, 0.60, 0.64])
NOISE = np.array([0.02, -0.03, 0.01, -0.01, 0.03, -0.02])
STEEP = BASE + np.array([0.10, 0.30, 0.20, 0.05, 0.25, 0.15])  # seeds that differ far more than the ways
# Leads of five seeds whose mean is 0.96 and 1.01 of the margin: other distributions and deviations decide otherwise.
HOLDS, LEAVES = np.array([0.07, 0.01, 0.045, 0.01, 0.02]), np.array([0.07, 0.01, 0.05, 0.01, 0.025])
EIGHT = np.concatenate([BASE, BASE[:2]])
SIX_OF_SEVEN = ([*(BASE + 0.2)], [*(BASE + NOISE)[:5], None, 0.62], [*(BASE - NOISE / 2)[:4], None, 0.63, 0.59])
TWO, OTHERS, TURNED = WAYS[:2], ("probe", "adapters", "scratch"), ", and rows are not in the order of the seeds"
# What a table of runs is about, its ways, their accuracies by seed. One decides among all ways but "scratch".
TABLES = (
    ("the ways are tied", WAYS, (BASE, BASE + NOISE, BASE + 0.004 - NOISE / 2)),
    ("one is ahead", WAYS, (BASE, BASE + NOISE, BASE + 0.1 + NOISE / 3)),
    ("the first is ahead", WAYS, (BASE + 0.1 - NOISE / 4, BASE + NOISE, BASE)),
    ("the middle one is tied with both", WAYS, (BASE, BASE + 0.02 + 1.5 * NOISE, BASE + 0.04 + NOISE / 9)),
    ("seeds differ more than ways" + TURNED, WAYS, (STEEP, STEEP + 0.03 + NOISE / 9, STEEP - 0.03 - NOISE / 9)),
    ("the highest mean beats none", WAYS, (BASE, BASE + 0.02 + NOISE / 9, BASE + 0.03 + 2 * NOISE)),
    ("there are five seeds, and an interval just holds zero", TWO, (BASE[:5], BASE[:5] + HOLDS)),
    ("there are five seeds, and an interval just leaves out zero", TWO, (BASE[:5], BASE[:5] + LEAVES)),
    ("there are four seeds", TWO, (BASE[:4], BASE[:4] + 0.2 + NOISE[:4])),
    ("two ways have four seeds in common", TWO, (BASE, [None, None, *(BASE + 0.2)])),
    ("the first and the last have four seeds in common", WAYS, (EIGHT[:6] + 0.2, EIGHT, [None, None, *EIGHT[2:]])),
    ("the last two have four seeds in common", WAYS, (EIGHT + 0.2, EIGHT[:6], [None, None, *EIGHT[2:]])),
    ("each two have five seeds in common, and all three four", WAYS, SIX_OF_SEVEN),
    ("a way is in the runs and not in `ways`", OTHERS, (BASE + 0.1, BASE + 0.1 + NOISE / 3, BASE + 0.3)),
    ("two ways are the same", OTHERS[:2], (BASE, BASE)),
)


def made_up(ways: Iterable[str], accuracies: Iterable[Iterable[float | None]], turned: bool) -> Runs:
    """Return runs with these accuracies by seed; if turned, the rows of every other way count down."""
    rows = Table()
    for i, (way, own) in enumerate(zip(ways, accuracies, strict=True)):
        for seed, accuracy in list(enumerate(own))[:: -1 if turned and i % 2 else 1]:
            row = {"data": "made up", "way": way, "images": 20, "seed": seed, "accuracy": accuracy}
            rows += [row | {"loss": 0.5, "seconds": 1.0}] if accuracy is not None else []
    return Runs(rows)
