"""Compare three learning rates for the ways of exercise 1, as its text says: python tools/tune_exercise_1.py.

The mean accuracy on validation images over the three scenarios, with three seeds that the exercise doesn't use.
"""

from pathlib import Path

import jupytext
import matplotlib

import tlcourse as tl

SOURCE = Path(__file__).resolve().parents[1] / "sources" / "solutions" / "ex1_choose_a_strategy.py"
RATES, SEEDS = (3e-4, 1e-3, 3e-3), (2000, 2001, 2002)


def main() -> None:
    """Run the solution up to `learn`, and print a row for each way and rate."""
    matplotlib.use("Agg")
    names = {"tl": tl, "runtime": tl.setup("mini"), "display": print}
    for cell in jupytext.read(SOURCE, fmt="py:percent").cells:
        if "measured = ..." in cell.source:
            break
        if cell.cell_type == "code":
            exec(cell.source, names)
    rows = tl.Table()
    for way in ("last stage", "fine-tuned"):
        for rate in RATES:
            names["RATE"] = rate
            found = [
                names["learn"](way, names["sets"][kind], images, seed).accuracy
                for kind, images in names["SCENARIOS"].items()
                for seed in SEEDS
            ]
            rows.append({"way": way, "rate": rate, "mean accuracy": sum(found) / len(found)})
    print(rows)


if __name__ == "__main__":
    main()
