"""Download files and archives: resumed after a cut, checked by their hash, with errors that say what to do."""

import os
import shutil
import tarfile
import time
import zipfile
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

import pooch
import requests
from filelock import FileLock
from tqdm.auto import tqdm

from tlcourse import runtime

WAITS = (1.0, 3.0)  # seconds before the second and the third try
TIMEOUT = (10, 30)  # seconds to connect, and between two pieces
PIECE = 1 << 18  # bytes; large enough that the progress bar costs nothing
pooch.get_logger().setLevel("WARNING")  # the progress bar says the same


def fetch(url: str, known_hash: str) -> Path:
    """Return the file that `url` names, downloading it if it is not here.

    A file of that name and hash in `TLCOURSE_DATA` or in the cache's `downloads` is used without a network.
    `known_hash` is `sha256:…` or `md5:…`.

    Raises:
        runtime.OfflineError: the file cannot be downloaded; the message says how to put it there by hand.
    """
    name, folder, given = _name(url), _folder(), runtime.data_folder()
    if given is not None and _intact(given / name, known_hash):
        return given / name
    part = folder / f"{name}.part"
    with FileLock(folder / f".{name}.lock"):  # other processes that want the same file wait here
        # What is continued may be the beginning of another file: if the hash is wrong then, start again.
        for _ in range(1 + part.exists()):
            try:
                return Path(pooch.retrieve(url, known_hash, name, folder, downloader=partial(_download, part)))
            except requests.RequestException as error:
                failure = _in_short(error)
                break
            except ValueError:
                failure = "the content has another hash than expected"
    places = [str(folder)]
    if given is not None:
        places.insert(0, f"{given} (TLCOURSE_DATA)")
        failure += f"\n  {given / name}: it is damaged" if (given / name).exists() else ""
    raise runtime.OfflineError(
        f"{name} could not be downloaded:\n  {url}: {failure}\n"
        f"Without a network: put {name} ({known_hash}) into {' or '.join(places)}, and run this again.\n"
        "The mini profile (TLCOURSE_PROFILE=mini) needs no download."
    )


def fetch_archive(url: str, known_hash: str) -> Path:
    """Return the folder with the content of a zip or tar archive, downloading and unpacking it once.

    The folder is named like the archive; one in `TLCOURSE_DATA` is used first. If the archive has a single folder
    inside, that folder is returned.

    Raises:
        runtime.OfflineError: the archive cannot be downloaded.
        ValueError: it has members that would land outside the folder, or is no archive.
    """
    stem, given = _name(url).split(".")[0], runtime.data_folder()
    target = _folder() / stem if given is None or not (given / stem).is_dir() else given / stem
    if not target.is_dir():
        archive = fetch(url, known_hash)
        with FileLock(target.with_name(f".{stem}.lock")):
            if not target.is_dir():  # another process may have unpacked it meanwhile
                _unpack(archive, target)
    visible = [path for path in target.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return visible[0] if len(visible) == 1 and visible[0].is_dir() else target


def _name(url: str) -> str:
    return unquote(PurePosixPath(urlsplit(url).path).name)


def _folder() -> Path:
    folder = runtime.get_runtime().cache / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _intact(path: Path, known_hash: str) -> bool:
    algorithm, digest = known_hash.split(":")
    return path.is_file() and pooch.file_hash(str(path), alg=algorithm) == digest


def _download(part: Path, url: str, output_file: str, _pooch: object) -> None:
    """Download for pooch, continuing what an earlier try left in `part`.

    Pooch's own downloader starts from the beginning each time: over a poor line, a large file would never arrive.
    """
    for wait in (*WAITS, None):
        try:
            _attempt(url, part)
            break
        except requests.RequestException as error:
            status = 0 if error.response is None else error.response.status_code
            if wait is None or (400 <= status < 500 and status not in (408, 429)):
                raise
            time.sleep(wait)
    os.replace(part, output_file)


def _attempt(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    # Ranges count bytes on the line: ask for them uncompressed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416:  # nothing after what is here: it is complete, or the beginning of another file
            if span.endswith(f"/{have}"):
                return
            part.unlink()
            raise requests.ConnectionError("what was downloaded before does not fit; starting again")
        answer.raise_for_status()
        continues = answer.status_code == 206 and span.startswith(f"bytes {have}-")
        have = have if continues else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, leave=False)
        with open(part, "ab" if continues else "wb") as file, bar:
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
    if total is not None and part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _unpack(archive: Path, target: Path) -> None:
    """Unpack into a temporary folder, then rename it: a folder of the final name is always complete."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # from a process that was killed; we hold the lock
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _must_stay_inside(opened.namelist())
                opened.extractall(unfinished)
        else:
            with tarfile.open(archive) as opened:
                _must_stay_inside(opened.getnames())
                opened.extractall(unfinished, filter="data")  # refuses links that lead outside, and devices
        unfinished.rename(target)
    except (ValueError, tarfile.TarError) as error:
        raise ValueError(f"{archive} cannot be unpacked as a zip or tar archive: {error}. Delete it.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _must_stay_inside(names: list[str]) -> None:
    for name in names:
        path = PureWindowsPath(name)  # understands both kinds of slash
        if path.drive or path.root or ".." in path.parts:
            raise ValueError(f"its member {name!r} would land outside the folder")


def _in_short(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return "the secure connection failed (is there a proxy, is the clock right?)"
    return str(error) if str(error).startswith("the connection ended") else f"no connection ({type(error).__name__})"
