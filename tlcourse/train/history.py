"""What training remembers: one row of measurements per epoch."""

import math
from dataclasses import asdict, dataclass, field

from tlcourse.table import Table


@dataclass(frozen=True)
class Epoch:
    """The measurements of one epoch: losses in nats, accuracies from 0 to 1, training time in seconds.

    `rates` are the learning rates of all groups at its last step, `lr` is the highest of them; `images` is the number
    of images trained on.
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
        """Speed of training with loading, without validation."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass
class History:
    """The epochs of a run, and why it ended if it ended early.

    `phases` holds the first epoch and the name of each phase of gradual unfreezing.
    """

    epochs: list[Epoch] = field(default_factory=list)
    interrupted: bool = False
    stopped_early: bool = False
    phases: list[tuple[int, str]] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the highest validation accuracy; among equals, the first with the lowest validation loss.

        An epoch whose validation loss is not finite is never the best; None if there is no other.
        """
        finite = [epoch for epoch in self.epochs if math.isfinite(epoch.val_loss)]
        return max(finite, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss), default=None)

    def column(self, name: str) -> list[float]:
        """Return one measurement of every epoch, such as `"val_accuracy"`."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def table(self) -> Table:
        """Return the history as a table with one row per epoch."""
        rows = Table()
        for epoch in self.epochs:
            row = {name: value for name, value in asdict(epoch).items() if name not in ("images", "rates")}
            rows.append(row | {"images/s": round(epoch.images_per_second, 1), "best": epoch is self.best})
        return rows

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
