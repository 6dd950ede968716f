"""Downloads that are checked, resumed, and said clearly when they cannot be had."""

import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import pooch
import requests
from filelock import FileLock
from tqdm.auto import tqdm

from tlcourse import runtime
from tlcourse.runtime import OfflineError

WAITS = (1.0, 3.0)  # seconds before the second and the third try at one address
TIMEOUT = (10, 30)  # seconds to connect, and between two pieces
PIECE = 1 << 18  # bytes; large enough that the progress bar costs nothing
pooch.get_logger().setLevel("WARNING")  # the progress bar says the same


def fetch(
    url: str,
    known_hash: str,
    *,
    mirrors: Sequence[str] = (),
    folder: str | Path | None = None,
    waits: Sequence[float] = WAITS,
) -> Path:
    """Return the file that `url` names, downloading it if it is not here.

    A file of that name and hash in `TLCOURSE_DATA` or in `folder` (by default the cache's `downloads`) is used without
    a network. Each address is tried again after each of `waits`, in seconds; what a cut connection left is continued.
    `known_hash` is `sha256:…` or `md5:…`.

    Raises:
        OfflineError: no address gave the file; the message says how to put it there by hand.
    """
    name, folder = _name(url), _downloads(folder)
    given, target = runtime.data_folder(), folder / name
    if given is not None and _intact(given / name, known_hash):
        return given / name
    with _one_at_a_time(target):
        if _intact(target, known_hash):
            return target
        failures = [] if given is None or not (given / name).exists() else [f"  {given / name}: it is damaged"]
        for address in (url, *mirrors):
            try:
                return _download(address, known_hash, target, waits)
            except (requests.RequestException, ValueError) as error:
                failures.append(f"  {address}: {_in_short(error)}")
    raise OfflineError(_how_to_get(name, known_hash, folder, failures))


def fetch_archive(
    url: str,
    known_hash: str,
    *,
    mirrors: Sequence[str] = (),
    folder: str | Path | None = None,
    waits: Sequence[float] = WAITS,
) -> Path:
    """Return the folder with an archive's content, downloading and unpacking it once; zip and tar are known.

    The folder is named like the archive; one in `TLCOURSE_DATA` is used first. Of an archive with a single folder
    inside, that folder is returned.

    Raises:
        OfflineError: the archive cannot be had.
        ValueError: it has members that would land outside the folder, or is no archive.
    """
    stem, folder = _name(url).split(".")[0], _downloads(folder)
    given, target = runtime.data_folder(), folder / stem
    if given is not None and (given / stem).is_dir():
        return _content(given / stem)
    if not target.is_dir():
        archive = fetch(url, known_hash, mirrors=mirrors, folder=folder, waits=waits)
        with _one_at_a_time(target):
            if not target.is_dir():  # another process may have been here
                _unpack(archive, target)
    return _content(target)


def _download(address: str, known_hash: str, target: Path, waits: Sequence[float]) -> Path:
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    options = {"fname": target.name, "path": target.parent, "downloader": ResumingDownloader(part, waits)}
    try:
        return Path(pooch.retrieve(address, known_hash, **options))
    except ValueError:  # the hash is wrong
        if not resumed:
            raise
        # What was continued may have been another file's beginning. It is gone now: once more, from the start.
        return Path(pooch.retrieve(address, known_hash, **options))


class ResumingDownloader:
    """A downloader for pooch that continues what an earlier try left in `part`.

    pooch's own starts from the beginning each time, which over a poor line means: never with a large file.
    """

    def __init__(self, part: Path, waits: Sequence[float] = WAITS):
        self.part = part
        self.waits = tuple(waits)

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download `url`, then move it to `output_file`, where pooch checks its hash."""
        for wait in (*self.waits, None):
            try:
                self._attempt(url)
                break
            except requests.RequestException as error:
                if wait is None or not _worth_another_try(error):
                    raise
                time.sleep(wait)
        os.replace(self.part, output_file)

    def _attempt(self, url: str) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        # Ranges count bytes on the line: ask for them uncompressed.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            span = answer.headers.get("Content-Range", "")
            if answer.status_code == 416:  # nothing after what is here: complete, or not this file's beginning
                if span.endswith(f"/{have}"):
                    return
                self.part.unlink()
                raise requests.ConnectionError("what was downloaded before does not fit; starting again")
            answer.raise_for_status()
            continues = answer.status_code == 206 and span.startswith(f"bytes {have}-")
            have = have if continues else 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=self.part.stem, leave=False)
            with open(self.part, "ab" if continues else "wb") as file, bar:
                for piece in answer.iter_content(PIECE):
                    file.write(piece)
                    bar.update(len(piece))
        if total is not None and self.part.stat().st_size < total:
            raise requests.ConnectionError(f"the connection ended after {self.part.stat().st_size} of {total} bytes")


def _worth_another_try(error: requests.RequestException) -> bool:
    answer = error.response
    return answer is None or answer.status_code >= 500 or answer.status_code in (408, 429)


def _intact(path: Path, known_hash: str) -> bool:
    algorithm, _, digest = known_hash.rpartition(":")
    return path.is_file() and pooch.file_hash(str(path), alg=algorithm or "sha256") == digest.lower()


def _name(url: str) -> str:
    return unquote(PurePosixPath(urlsplit(url).path).name)


def _downloads(folder: str | Path | None) -> Path:
    folder = runtime.get_runtime().cache / "downloads" if folder is None else Path(folder).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _one_at_a_time(target: Path) -> FileLock:
    """Let other processes that want the same file wait here; the system frees the lock of a process that dies."""
    return FileLock(target.with_name(f".{target.name}.lock"))


def _in_short(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return "the content has another hash than expected"
    if isinstance(error, requests.exceptions.SSLError):
        return "the secure connection failed (is there a proxy, is the clock right?)"
    return str(error) if str(error).startswith("the connection ended") else f"no connection ({type(error).__name__})"


def _how_to_get(name: str, known_hash: str, folder: Path, failures: list[str]) -> str:
    given = runtime.data_folder()
    place = str(folder) if given is None else f"{given} (TLCOURSE_DATA) or {folder}"
    return "\n".join(
        [
            f"{name} could not be had from",
            *failures,
            f"Without a network: put {name} ({known_hash}) into {place}, and run this again.",
            "The mini profile (TLCOURSE_PROFILE=mini) needs no download.",
        ]
    )


def _unpack(archive: Path, target: Path) -> None:
    """Unpack into a temporary folder, then rename, so that a folder of that name is always complete."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # we hold the lock: it is from a process that died
    try:
        for name, is_folder, opener in _members(archive):
            place = unfinished / _safe(name, archive)
            if is_folder:
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with opener() as source, open(place, "wb") as file:
                shutil.copyfileobj(source, file)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], BinaryIO]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                # A symbolic link comes out as a small file with its target's name: harmless.
                yield info.filename, info.is_dir(), lambda info=info: opened.open(info)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened:
            for member in opened:
                if not (member.isfile() or member.isdir()):
                    raise ValueError(
                        f"{archive} has {member.name}, a link or device; only files and folders are unpacked."
                    )
                yield member.name, member.isdir(), lambda member=member: opened.extractfile(member)
    else:
        raise ValueError(f"{archive} is neither a zip nor a tar archive. Delete it, and run this again.")


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PureWindowsPath(name)  # takes both kinds of slash
    if path.drive or path.root or ".." in path.parts:
        raise ValueError(
            f"{archive} has the member {name!r}, which would land outside its folder. Do not use this archive."
        )
    return PurePosixPath(name)


def _content(folder: Path) -> Path:
    visible = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return visible[0] if len(visible) == 1 and visible[0].is_dir() else folder
