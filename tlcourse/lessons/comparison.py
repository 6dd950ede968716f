"""What a comparison found: runs as a table, paired differences with their interval, a figure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import stats

from tlcourse import plots
from tlcourse.table import Table


@dataclass(frozen=True)
class Difference:
    """The differences of two ways, run by run with the same seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the differences."""
        return float(np.mean(self.values))

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the mean, from the t distribution: smaller differences cannot be shown."""
        n = len(self.values)
        return float(stats.t.ppf(0.975, n - 1) * np.std(self.values, ddof=1) / n**0.5)

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.margin

    def __str__(self) -> str:
        found = f"{self.mean:+.3f} ± {self.margin:.3f} (95 % interval, {len(self.values)} seeds)"
        return found + ("" if self.clear else ": no difference that these runs can show")

    __repr__ = __str__


def plot_differences(
    found: Mapping[str, Difference], *, title: str, live: Mapping[str, Difference] | None = None
) -> None:
    """Draw a row for each difference: a grey dot for each seed, the mean with its interval, `live` as diamonds."""
    with plots.new_figure(6.4, 0.36 * len(found) + 1.1, title=title) as ((ax,),):
        for i, (name, one) in enumerate(found.items()):
            ax.plot(one.values, [i] * len(one.values), "o", color="0.72", ms=4, mew=0)
            ax.errorbar(one.mean, i, xerr=one.margin, fmt="|", ms=13, mew=2, color=plots.BLACK, capsize=4)
            again = live[name].values if live and name in live else ()
            ax.plot(again, [i] * len(again), "D", color=plots.BLACK, mfc="none", ms=7, zorder=4)
        ax.axvline(0, color=plots.GREY, lw=0.8)
        ax.set_yticks(range(len(found)), list(found))
        ax.locator_params(axis="x", nbins=6)
        ax.set(ylim=(len(found) - 0.5, -0.6), xlabel="difference of accuracy, with its 95 % interval")


@dataclass(frozen=True, repr=False)
class Runs:
    """The runs of a comparison: one row for each, with accuracy and loss on the validation set, and seconds.

    `about` says for each image set with which settings they were made; of stored runs also when, and with what.
    """

    rows: Table
    about: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: "Runs") -> "Runs":
        """Return the runs of both."""
        return Runs(Table([*self.rows, *other.rows]), {**self.about, **other.about})

    def only(self, **wanted: object) -> "Runs":
        """Return the runs whose columns have these values, such as `only(data="toypets", images=100)`."""
        rows = Table(row for row in self.rows if all(row[name] == value for name, value in wanted.items()))
        if not rows:
            raise ValueError(f"No run has {wanted}. There are {self._choices()}.")
        return replace(self, rows=rows)

    def accuracies(self, way: str, images: int | None = None) -> dict[int, float]:
        """Return the accuracy of each seed; `images` may be left out where there is only one number.

        Raises:
            ValueError: there is no such run, or there are several of a seed.
        """
        runs = self.only(way=way) if images is None else self.only(way=way, images=images)
        found = {row["seed"]: row["accuracy"] for row in runs.rows}
        if len(found) < len(runs.rows):
            raise ValueError(f"{way!r} has several runs of a seed: say which. There are {runs._choices()}.")
        return found

    def difference(self, way: str, other: str, images: int | None = None) -> Difference:
        """Return the accuracy of `way` minus that of `other`, seed by seed.

        Raises:
            ValueError: the two have fewer than two seeds in common.
        """
        first, second = self.accuracies(way, images), self.accuracies(other, images)
        seeds = sorted(first.keys() & second.keys())
        if len(seeds) < 2:
            raise ValueError(f"{way!r} and {other!r} have {len(seeds)} seeds in common. An interval needs two or more.")
        return Difference(tuple(first[seed] - second[seed] for seed in seeds))

    def shift(self, way: str, data: str, other: str) -> Difference:
        """Return the accuracy of a way on the image set `data` minus that on the set `other`, seed by seed."""
        first, second = (self.only(data=name).accuracies(way) for name in (data, other))
        return Difference(tuple(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())))

    def winners(self) -> dict[str, dict[int, list[str]]]:
        """Return image set -> number of images -> the best way, and the ways that are not clearly worse."""
        found: dict[str, dict[int, list[str]]] = {}
        for row in self.rows:
            found.setdefault(row["data"], {}).setdefault(row["images"], [])
        for data, sizes in found.items():
            for images in sizes:
                runs = self.only(data=data, images=images)
                means = {row["way"]: row["accuracy"] for row in runs.table()}
                best = max(means, key=means.get)
                near = [way for way in means if way != best and not runs.difference(best, way).clear]
                sizes[images] = [best, *near]
        return found

    def agree_with(self, stored: "Runs") -> bool:
        """Whether all runs lie where repeats of the stored ones would: 99 of 100 such comparisons agree.

        Each accuracy is held against the prediction interval of its stored group, from the t distribution.

        Raises:
            ValueError: a way has other settings than the stored one of its name.
        """
        for data, made in self.about.items():
            for way, settings in made["ways"].items():
                if settings not in (then := stored.about[data]["ways"][way]):
                    raise ValueError(f"{way!r} is {settings} here, and was {then}. Compare the same settings.")
        for row in self.rows:
            group = list(stored.only(data=row["data"]).accuracies(row["way"], row["images"]).values())
            n, spread = len(group), np.std(group, ddof=1)
            reach = stats.t.ppf(1 - 0.005 / len(self.rows), n - 1) * spread * (1 + 1 / n) ** 0.5
            if abs(row["accuracy"] - np.mean(group)) > reach:
                return False
        return True

    def by_size(self) -> dict[str, dict[int, list[float]]]:
        """Return way -> number of images -> accuracy of each run, as figures take it."""
        results: dict[str, dict[int, list[float]]] = {}
        for row in self.rows:
            results.setdefault(row["way"], {}).setdefault(row["images"], []).append(row["accuracy"])
        return results

    def plot(self, *, title: str, live: "Runs | None" = None, chance: float | None = None, **labels: str) -> None:
        """Draw every run as a dot and the means as lines or bars; `live` runs are drawn over them as open diamonds."""
        again = None if live is None else live.by_size()
        plots.runs(self.by_size(), live=again, chance=chance, title=title, **labels)

    def plot_against(
        self, cost: Mapping[str, float], *, title: str, live: "Runs | None" = None, xlabel: str = "trained parameters"
    ) -> None:
        """Draw the accuracy of each way against a cost, on a log scale: every run a dot, the mean a bar."""
        with plots.new_figure(6.4, 3.4, title=title) as ((ax,),):
            for name, x in cost.items():
                shade = plots.COLOURS.get(name, plots.BLACK)
                values = list(self.accuracies(name).values())
                again = [row["accuracy"] for row in (live.rows if live else ()) if row["way"] == name]
                ax.plot([x] * len(values), values, "o", color=shade, alpha=0.35, mew=0)
                ax.plot(x, np.mean(values), "_", color=shade, ms=26, mew=2.5)
                ax.plot([x] * len(again), again, "D", color=shade, mfc="none", ms=7, zorder=4)
                ax.annotate(name, (x, max(values)), (0, 7), textcoords="offset points", ha="center", color=shade)
            ax.set(xscale="log", xlabel=f"{xlabel} (log scale)", ylabel="validation accuracy", xmargin=0.15)

    def table(self) -> Table:
        """Return mean and standard deviation of each way and number of images."""
        table = Table()
        for way, sizes in self.by_size().items():
            for images, values in sorted(sizes.items()):
                seconds = [row["seconds"] for row in self.only(way=way, images=images).rows]
                row = {"way": way, "images": images, "runs": len(values), "accuracy": float(np.mean(values))}
                row["deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
                table.append(row | {"seconds": float(np.median(seconds))})
        return table

    def _choices(self) -> str:
        shown = {name: list(dict.fromkeys(row[name] for row in self.rows)) for name in ("data", "way", "images")}
        return "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in shown.items())

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
