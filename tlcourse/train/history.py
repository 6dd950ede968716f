"""What training remembers: a row of measurements for every epoch."""

from dataclasses import asdict, dataclass, field

from tlcourse.table import Table


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured: losses in nats, accuracies from 0 to 1, training time in seconds.

    `lr` is the highest rate of its last step, `rates` are those of all groups; `images` were trained on.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    images: int = 0
    rates: tuple[float, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Speed of training, the loading of images included, measuring on the validation part left out."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def score(self) -> tuple[float, float]:
        """What makes one epoch better than another: its validation accuracy; among equals, the lower loss."""
        return self.val_accuracy, -self.val_loss


@dataclass
class History:
    """The epochs of a run, which of them had the best weights, and why the run ended if it ended early.

    `phases` holds the first epoch and the name of each phase of gradual unfreezing.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    interrupted: bool = False
    phases: list[tuple[int, str]] = field(default_factory=list)
    stopped_early: bool = False

    def column(self, name: str) -> list[float]:
        """Return one measurement for every epoch, such as `"val_accuracy"`."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def table(self) -> Table:
        """Return the history as a table, a row an epoch."""
        rows = Table()
        for epoch in self.epochs:
            row = {name: value for name, value in asdict(epoch).items() if name not in ("images", "rates")}
            rows.append(row | {"images/s": round(epoch.images_per_second, 1), "best": epoch is self.best})
        return rows

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
