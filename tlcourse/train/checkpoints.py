"""Checkpoints that survive: written whole or not at all, checked when they are read, and the one before kept."""

import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import torch

from tlcourse.atomic_write import move_into_place, refuse_unwritable, temporary_path

NAME = re.compile(r"step-(\d{9})-([0-9a-f]{64})\.pt")


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often `fit` saves. Call `fit` again with the same arguments to continue from the last checkpoint.

    A file holds tensors and plain values only, and is read with `weights_only=True`: no code in it is run. Its name
    holds the SHA-256 of its content. A process that is killed while it saves leaves the earlier files as they were; a
    file that was damaged later is skipped.

    Args:
        folder: for this run alone; made where it is missing.
        every: optimizer steps between two checkpoints; one is saved at the end of each epoch too.
        keep: number of files that stay. With 2, one damaged file does no harm.

    Raises:
        ValueError: `every` or `keep` is less than 1, or the folder cannot be written.
    """

    folder: str | Path
    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if (self.every is not None and self.every < 1) or self.keep < 1:
            raise ValueError(f"every={self.every} and keep={self.keep}: give 1 or more of each.")
        object.__setattr__(self, "folder", Path(self.folder).expanduser())
        refuse_unwritable(self.folder / "step", "Give another folder for the checkpoints.")

    def files(self) -> list[Path]:
        """Return the checkpoints that are there, the newest first."""
        found = [file for file in self.folder.glob("step-*.pt") if NAME.fullmatch(file.name)]
        return sorted(found, key=lambda file: (NAME.fullmatch(file.name)[1], file.stat().st_mtime_ns), reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a state of tensors and plain values, and delete the oldest checkpoints.

        Raises:
            OSError: the disk is full, or the folder cannot be written to; what was saved before is still there.
        """
        with temporary_path(self.folder / f"step-{step:09d}") as part:
            torch.save(state, part)
            file = self.folder / f"step-{step:09d}-{pooch.file_hash(part)}.pt"
            move_into_place(part, file)
        for old in self.files()[self.keep :]:
            old.unlink(missing_ok=True)
        return file

    def load(self) -> dict[str, Any] | None:
        """Return the newest state that is undamaged, or None; warn about every file that had to be skipped."""
        for leftover in self.folder.glob(".step-*.part"):  # of a process that was killed while it saved
            leftover.unlink(missing_ok=True)
        for file in self.files():
            try:
                if pooch.file_hash(file) != NAME.fullmatch(file.name)[2]:
                    raise ValueError("its content is not what was written")
                return torch.load(file, map_location="cpu", weights_only=True)
            except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                reason = str(error).strip().split("\n")[0]
                warnings.warn(f"The checkpoint {file} is damaged ({reason}); the one before is used.", stacklevel=2)
        return None
