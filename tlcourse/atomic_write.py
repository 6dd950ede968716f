"""Write a file whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a temporary path beside `file`, and move what was written there to `file` at the end.

    After an error the temporary file is deleted. A file that was there before stays until the new one is complete. A
    link stays, and what it leads to is written.
    """
    file = file.resolve() if file.is_symlink() else file
    with temporary_path(file) as part:
        yield part
        move_into_place(part, file)


@contextmanager
def temporary_path(file: Path) -> Iterator[Path]:
    """Give a path beside `file`, whose folder is made where it is missing; delete what is still there at the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def move_into_place(part: Path, file: Path) -> None:
    """Flush a file to the disk, and rename it: the new name never stands for half a file, even after a power cut.

    Its rights are those of the file that it replaces, or of any new file, whatever wrote it.
    """
    with part.open("rb+") as opened:
        os.fsync(opened.fileno())  # a rename may reach the disk before the content does
    os.umask(umask := os.umask(0))
    with suppress(OSError):  # of a disk that knows no rights
        part.chmod(file.stat().st_mode if file.exists() else 0o666 & ~umask)
    os.replace(part, file)
    if os.name != "nt":  # the rename must reach the disk too; Windows neither needs nor allows this
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def user_path(text: str | Path) -> Path:
    """Return a path that a user typed: a shell leaves ~ alone in `--data=~/x`."""
    return Path(os.path.expanduser(text))


def refuse_unwritable(file: Path, advice: str, *, size: int = 0) -> None:
    """Raise a ValueError, with advice, where a file cannot be written: before the work whose result it will hold."""
    try:
        if file.is_dir():
            raise IsADirectoryError("it is a folder")
        with temporary_path(file) as part:
            part.write_bytes(bytes(4096))  # a full disk takes a name, and no content
        if (free := shutil.disk_usage(file.parent).free) < size:
            raise OSError(f"it needs {size / 1e6:.0f} MB, and {free / 1e6:.0f} are free")
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error.strerror or error}). {advice}") from error
