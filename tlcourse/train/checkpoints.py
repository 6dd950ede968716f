"""Checkpoints that survive: written whole or not at all, checked when read, and the one before at hand."""

import hashlib
import os
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

NAME = re.compile(r"step-(\d{9})-([0-9a-f]{32})\.pt")
LEFTOVER = "unfinished-*.part"


@dataclass(frozen=True)
class Checkpoints:
    """Where a run saves itself, and how often. Give it to `fit`: the same call, made again, goes on from there.

    A file holds tensors, numbers and texts only, and is read with `weights_only=True`: nothing in it is executed. Its
    name holds the digest of its content. It is written under another name, flushed to the disk and renamed, so a
    process that dies at any moment leaves the files of before; a file that was damaged later is passed over.

    Args:
        folder: for this run alone; made where it is missing.
        every: optimizer steps between two saves; each end of an epoch is saved too.
        keep: so many files stay; one more than the last is what a damaged file needs.

    Raises:
        ValueError: `every` or `keep` is less than 1.
    """

    folder: str | Path
    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if (self.every is not None and self.every < 1) or self.keep < 1:
            raise ValueError(f"every={self.every} and keep={self.keep}: give 1 or more of each.")
        object.__setattr__(self, "folder", Path(self.folder).expanduser())

    def due(self, step: int) -> bool:
        """Say whether a save is due after so many steps."""
        return self.every is not None and step % self.every == 0

    def files(self) -> list[Path]:
        """Return the checkpoints that are there, the newest first."""
        found = [file for file in self.folder.glob("step-*.pt") if NAME.fullmatch(file.name)]
        return sorted(found, key=lambda file: (NAME.fullmatch(file.name)[1], file.stat().st_mtime_ns), reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a state of tensors, numbers, texts, lists and dictionaries, and delete what is too old.

        Raises:
            OSError: the disk is full, or the folder cannot be written to; what was saved before is still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / LEFTOVER.replace("*", str(os.getpid()))
        try:
            torch.save(state, part)
            digest = _digest(part, flush=True)
            file = self.folder / f"step-{step:09d}-{digest}.pt"
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(self.folder)
        for old in self.files()[self.keep :]:
            old.unlink(missing_ok=True)
        return file

    def load(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, or None; warn about every file that had to be passed over."""
        for leftover in self.folder.glob(LEFTOVER):  # of a process that was killed while it saved
            leftover.unlink(missing_ok=True)
        for file in self.files():
            try:
                if _digest(file) != NAME.fullmatch(file.name)[2]:
                    raise ValueError("its content is not what was written")
                return torch.load(file, map_location="cpu", weights_only=True)
            except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                reason = str(error).strip().split("\n")[0]
                warnings.warn(f"The checkpoint {file} is damaged ({reason}); the one before is used.", stacklevel=2)
        return None


def _digest(file: Path, *, flush: bool = False) -> str:
    digest = hashlib.sha256()
    with open(file, "rb+" if flush else "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
        if flush:
            os.fsync(opened.fileno())  # a rename may reach the disk before the content does
    return digest.hexdigest()[:32]


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows neither needs nor allows it."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
