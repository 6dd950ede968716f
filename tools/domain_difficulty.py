"""Measure how hard the generated domains are, and draw their images: docs/domains.md and docs/domains.jpg.

python tools/domain_difficulty.py
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tlcourse as tl
from tlcourse.synthetic import DOMAINS, generate

DOCS = Path(__file__).parents[1] / "docs"
TEXT = DOCS / "domains.md"
MARKS = ("<!-- table -->", "<!-- end of table -->")
TRAIN, TEST = 200, 400
SEEDS = 3  # choices of training images
COLUMNS, SIDE = 7, 96
FIRST_SHOWN = 3_000_000  # a seed that no part uses
# Inverse penalties, the best of four on land use; elsewhere none helps.
STRENGTHS = {"histogram": 0.01, "thumbnail": 1e-3}


def histogram(images: np.ndarray) -> np.ndarray:
    """Return 16 bins of each colour and the joint 4 x 4 x 4 bins of uint8 images `(N, H, W, 3)`: `(N, 112)`."""
    joint = (images // 64).astype(np.int64) @ [16, 4, 1]
    single = images // 16 + np.array([0, 16, 32], np.uint8)
    counts = [
        [*np.bincount(a.ravel(), minlength=48), *np.bincount(b.ravel(), minlength=64)]
        for a, b in zip(single, joint, strict=True)
    ]
    return np.array(counts) / images[0, ..., 0].size


def thumbnail(images: np.ndarray) -> np.ndarray:
    """Return 16 x 16 pixels of images `(N, 96, 96, 3)`: `(N, 768)`."""
    return images.reshape(-1, 16, 6, 16, 6, 3).mean((2, 4)).reshape(len(images), -1)


def pixels(images: tl.data.ImageSet) -> np.ndarray:
    """Return all images of a set, `(N, 96, 96, 3)` uint8."""
    return np.stack([np.asarray(images.raw(i)) for i in range(len(images))])


def simple_accuracy(splits: tl.data.Splits, describe) -> float:
    """Return the test accuracy of a logistic regression on `describe(pixels)`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTHS[describe.__name__], max_iter=2000))
    model.fit(describe(pixels(splits.train)), splits.train.labels.numpy())
    return model.score(describe(pixels(splits.test)), splits.test.labels.numpy())


def probe_accuracy(model: torch.nn.Module, splits: tl.data.Splits) -> float:
    """Return the test accuracy of a linear probe."""
    train, _, test = tl.features.extract_splits(model, splits)
    return tl.features.fit_probe(train).evaluate(test).accuracy


def measure(name: str) -> list[list[float]]:
    """Return three rows, histogram, thumbnail and probe: an accuracy for each choice of training images."""
    classes = len(DOMAINS[name].CLASSES)
    model = tl.models.create("tl_resnet", num_classes=classes)
    rows = []
    for seed in range(SEEDS):
        splits = tl.data.load(name, model=model, train=TRAIN, val=classes, seed=seed)
        splits = replace(splits, test=splits.take(test=TEST).test)  # the same test images for every choice
        simple = [simple_accuracy(splits, describe) for describe in (histogram, thumbnail)]
        rows.append([*simple, probe_accuracy(model, splits)])
        print(name, *(f"{value:.3f}" for value in rows[-1]), flush=True)
    return np.transpose(rows).tolist()


def table() -> str:
    """Return the difficulties as a table in Markdown."""
    lines = ["| domain | chance | colour histogram | 16 x 16 thumbnail | `tl_resnet` |", "|---|---|---|---|---|"]
    for name, module in DOMAINS.items():
        cells = [f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1) / SEEDS**0.5:.3f}" for scores in measure(name)]
        lines.append(f"| `{name}` | {1 / len(module.CLASSES):.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheet() -> Image.Image:
    """Return images of every class, one row per class, with its name."""
    rows = [(domain, label) for domain, module in DOMAINS.items() for label in module.CLASSES]
    margin = 84
    drawn = Image.new("RGB", (margin + COLUMNS * SIDE, len(rows) * SIDE), "white")
    write = ImageDraw.Draw(drawn)
    for row, (domain, label) in enumerate(rows):
        write.text((6, row * SIDE + 28), f"{domain}\n{label}", fill="black")
        for column in range(COLUMNS):
            image = Image.fromarray(generate(domain, label, FIRST_SHOWN + column)).convert("RGB")
            drawn.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (margin + column * SIDE, row * SIDE))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", action="store_true", help="draw the images only")
    sheet().save(DOCS / "domains.jpg", quality=88, optimize=True)
    if parser.parse_args().sheet:
        return
    before, after = TEXT.read_text(encoding="utf-8").split(MARKS[0])
    text = f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after.split(MARKS[1])[1]}"
    TEXT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
