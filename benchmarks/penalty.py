"""Does another rule choose a better penalty for the probe? Rules compared over random splits of several image sets.

    python benchmarks/penalty.py                       the drawn sets
    python benchmarks/penalty.py FOLDER ...            folders of images, too, all their parts taken together

Each rule chooses on the training features alone, by the log-likelihood in cross-validation (or the accuracy), and is
measured on the rest. Writes benchmarks/penalty.md: mean accuracy over splits, and what each rule differs from ours by.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import tlcourse as tl
from tlcourse.features.probe import CS, log_likelihood

DRAWN = ("toypets", "landuse", "digits", "radiographs", "surfaces")
SPLITS, SIZES, IMAGES, FOLDS = 5, (60, 200), 600, 5
FINE = tuple(10.0**power for power in np.arange(-4, 1.1, 0.5))
PAGE = Path(__file__).with_suffix(".md")

# rule -> grid of inverse penalties, repetitions of the folds, one-standard-error rule, by accuracy
RULES = {
    "ours": (CS, 1, False, False),
    "finer grid": (FINE, 1, False, False),
    "folds three times": (CS, 3, False, False),
    "one standard error": (CS, 1, True, False),
    "all three": (FINE, 3, True, False),
    "by accuracy": (CS, 1, False, True),
}


def features(source: str, model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of a set's images, all parts together."""
    splits = tl.data.from_folder(source, model=model) if Path(source).is_dir() else tl.data.load(source, model=model)
    plain, few = (
        splits.plain(),
        {part: min(IMAGES // 2, len(getattr(splits, part))) for part in ("train", "val", "test")},
    )
    found = tl.features.extract_splits(model, plain.take(**few))
    return torch.cat([part.x for part in found]).double().numpy(), torch.cat([part.y for part in found]).numpy()


def choices(z: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Return the inverse penalty that each rule chooses on standardised features."""
    folds = list(RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=3, random_state=seed).split(z, y))
    scores = {c: np.zeros((2, len(folds))) for c in FINE}
    for i, (rows, rest) in enumerate(folds):
        for c in FINE:
            fitted = LogisticRegression(C=c, max_iter=1000).fit(z[rows], y[rows])
            scores[c][:, i] = log_likelihood(fitted, z[rest], y[rest]), fitted.score(z[rest], y[rest])
    near = {c: min(FINE, key=lambda other: abs(np.log(other / c))) for c in CS}
    chosen = {}
    for rule, (grid, times, careful, by_accuracy) in RULES.items():
        table = np.array([scores[near.get(c, c)][int(by_accuracy), : FOLDS * times] for c in grid])
        best = table.mean(1).argmax()
        least = table.mean(1).max() - careful * table[best].std(ddof=1) / FOLDS**0.5
        chosen[rule] = grid[int((table.mean(1) >= least).argmax()) if careful else best]
    return chosen


def main() -> None:
    """Compare the rules on the drawn sets and on the folders given, and write the page."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    model, rows, differences = tl.models.create("tl_resnet", 2), [], {rule: [] for rule in RULES}
    for source in (*DRAWN, *sys.argv[1:]):
        x, y = features(source, model)
        for size in SIZES:
            right: dict[str, list[float]] = {rule: [] for rule in RULES}
            for split in range(SPLITS):
                order = np.random.default_rng(split).permutation(len(y))
                train, test = order[:size], order[size:]
                if np.bincount(y[train], minlength=y.max() + 1).min() < FOLDS:
                    continue  # too few of a class for its folds
                scaler = StandardScaler().fit(x[train])
                z, z_test = scaler.transform(x[train]), scaler.transform(x[test])
                for rule, c in choices(z, y[train], split).items():
                    fitted = LogisticRegression(C=c, max_iter=1000).fit(z, y[train])
                    right[rule].append(fitted.score(z_test, y[test]))
            if right["ours"]:
                rows.append([Path(source).name, str(size), *(f"{np.mean(each):.3f}" for each in right.values())])
                print(*rows[-1], flush=True)
                for rule, each in right.items():
                    differences[rule].append(np.mean(each) - np.mean(right["ours"]))
    lines = [f"| set | images | {' | '.join(RULES)} |", "|---|--:|" + "--:|" * len(RULES)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    means = (f"{np.mean(each):+.4f} ± {np.std(each, ddof=1) / len(each) ** 0.5:.4f}" for each in differences.values())
    lines.append(f"| **minus ours** | | {' | '.join(means)} |")
    text = (
        "# The probe's penalty: other rules\n\n`python benchmarks/penalty.py [FOLDER ...]` wrote this page: accuracy "
        f"on the rest of the images, mean over {SPLITS} random splits, with features of `tl_resnet`. The last line "
        "is the mean difference to the rule of `fit_probe` over all rows, with its standard error.\n\n"
    )
    PAGE.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
