"""Downloads against a server of our own, which cuts connections and lies when told to."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tlcourse import runtime
from tlcourse.data import downloads
from tlcourse.runtime import OfflineError

CONTENT = bytes(range(256)) * 8000  # 2 MB: several pieces


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves `files`; `cuts` holds how many bytes to send before dropping a connection, one for each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.errors: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Connections that the client drops are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        name, wanted = self.path.lstrip("/").split("?")[0], self.headers.get("Range")
        self.server.requests.append((name, wanted))
        content = self.server.files.get(name)
        if self.server.errors:
            return self.send_error(self.server.errors.pop(0))
        if content is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, format, *args):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The folder of downloads, not made yet."""
    monkeypatch.delenv("TLCOURSE_DATA", raising=False)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "_current", None)
    monkeypatch.setattr(downloads, "WAITS", (0, 0))
    return tmp_path / "cache" / "downloads"


def fetch(server, name="images.bin", content=CONTENT):
    return downloads.fetch(f"{server.address}/{name}", sha256(content))


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_then_no_network(server, folder):
    server.files["images.bin"] = CONTENT
    path = fetch(server)
    assert path == folder / "images.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(server) == path
    assert len(server.requests) == 1, "a file that is here and right needs no request"
    assert visible(path.parent) == ["images.bin"]


def test_md5_and_an_address_with_a_query(server, folder):
    server.files["a.bin"] = CONTENT
    path = downloads.fetch(f"{server.address}/a.bin?version=2", f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert path == folder / "a.bin"


def test_wrong_content_is_refused_and_not_left_behind(server, folder):
    server.files["images.bin"] = b"log in to use this network"
    with pytest.raises(OfflineError, match="bin: the content has another hash than expected"):
        fetch(server)
    assert visible(folder) == []


def test_damaged_file_is_downloaded_again(server):
    server.files["images.bin"] = CONTENT
    fetch(server).write_bytes(CONTENT[:1000])
    assert fetch(server).read_bytes() == CONTENT


def test_a_cut_connection_is_resumed_where_it_ended(server):
    server.files["images.bin"] = CONTENT
    server.cuts = [700_000, 300_000]
    assert fetch(server).read_bytes() == CONTENT
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted in server.requests[1:]]
    assert [wanted for _, wanted in server.requests[:1]] == [None]
    assert 0 < starts[0] <= 700_000
    assert starts[0] < starts[1] <= 1_000_000


def test_a_later_run_continues_what_an_earlier_one_left(server, folder):
    server.files["images.bin"] = CONTENT
    folder.mkdir(parents=True)
    (folder / "images.bin.part").write_bytes(CONTENT[:500_000])
    assert fetch(server).read_bytes() == CONTENT
    assert server.requests == [("images.bin", "bytes=500000-")]


@pytest.mark.parametrize("left", [b"another file's beginning", CONTENT + b"too long"])
def test_a_beginning_of_another_file_is_thrown_away(server, left, folder):
    server.files["images.bin"] = CONTENT
    folder.mkdir(parents=True)
    (folder / "images.bin.part").write_bytes(left)
    assert fetch(server).read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server, folder):
    server.files["images.bin"] = CONTENT
    folder.mkdir(parents=True)
    (folder / "images.bin.part").write_bytes(CONTENT)
    assert fetch(server).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_server_without_ranges_starts_again(server):
    server.files["images.bin"], server.ranges, server.cuts = CONTENT, False, [700_000]
    assert fetch(server).read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_asked_for_once(server):
    with pytest.raises(OfflineError, match="the server answers 404"):
        fetch(server)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server):
    server.files["images.bin"], server.errors = CONTENT, [503, 429]
    assert fetch(server).read_bytes() == CONTENT


def test_waits_are_kept(server, monkeypatch):
    slept = []
    monkeypatch.setattr(downloads, "WAITS", (1.0, 3.0))
    monkeypatch.setattr(downloads.time, "sleep", slept.append)
    server.errors = [503] * 3
    with pytest.raises(OfflineError, match="the server answers 503"):
        fetch(server)
    assert slept == [1.0, 3.0]


def test_without_a_server_the_error_says_what_to_do(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "stick"))
    gone = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gone.server_close()
    url = f"http://127.0.0.1:{gone.server_address[1]}/images.bin"
    with pytest.raises(OfflineError) as caught:
        downloads.fetch(url, sha256(CONTENT))
    message = str(caught.value)
    for part in (url, "no connection", str(folder), str(tmp_path / "stick"), sha256(CONTENT), "mini"):
        assert part in message
    assert visible(folder) == []


def test_given_data_is_used_first_and_never_changed(server, tmp_path, monkeypatch, folder):
    stick = tmp_path / "stick"
    stick.mkdir()
    monkeypatch.setenv("TLCOURSE_DATA", str(stick))
    (stick / "images.bin").write_bytes(CONTENT)
    assert fetch(server) == stick / "images.bin"
    assert server.requests == []
    (stick / "images.bin").write_bytes(b"damaged")
    with pytest.raises(OfflineError, match="it is damaged"):
        fetch(server)
    server.files["images.bin"] = CONTENT
    assert fetch(server) == folder / "images.bin"
    assert (stick / "images.bin").read_bytes() == b"damaged"


def test_two_at_a_time_download_once(server):
    server.files["images.bin"] = CONTENT
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 4
    assert len(server.requests) == 1


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(info)
    return buffer.getvalue()


def unpack(server, content, name="set.zip"):
    server.files[name] = content
    return downloads.fetch_archive(f"{server.address}/{name}", sha256(content))


@pytest.mark.parametrize(("pack", "name"), [(zipped, "set.zip"), (tarred, "set.tar.gz")])
def test_an_archive_is_unpacked_once(server, pack, name, folder):
    content = pack({"a/1.txt": b"one", "b/2.txt": b"two"})
    unpacked = unpack(server, content, name)
    assert unpacked == folder / "set"
    assert (unpacked / "a" / "1.txt").read_bytes() == b"one"
    (folder / name).unlink()
    assert unpack(server, content, name) == unpacked
    assert len(server.requests) == 1


def test_a_single_folder_inside_is_returned(server, folder):
    content = zipped({"images/a/1.txt": b"1", "__MACOSX/images/x": b""})
    assert unpack(server, content) == folder / "set" / "images"


def test_a_given_folder_needs_no_archive(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "stick"))
    for name in ("train", "val"):
        (tmp_path / "stick" / "set" / name).mkdir(parents=True)
    assert unpack(server, b"") == tmp_path / "stick" / "set"
    assert server.requests == []


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_that_would_land_outside_are_refused(server, tmp_path, pack, name, folder):
    with pytest.raises(ValueError, match="outside"):
        unpack(server, pack({"good.txt": b"", name: b"evil"}))
    assert visible(folder) == ["set.zip"], "nothing half unpacked is left"
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_a_tar_are_refused(server, folder):
    with pytest.raises(ValueError, match="link"):
        unpack(server, tarred({"a.txt": b""}, link="etc"), "set.tar")
    assert visible(folder) == ["set.tar"]


def test_what_a_dead_process_left_half_unpacked_is_cleared(server, folder):
    left = folder / ".set.unfinished"
    left.mkdir(parents=True)
    (left / "old.txt").write_text("old")
    assert visible(unpack(server, zipped({"a.txt": b"", "b.txt": b""}))) == ["a.txt", "b.txt"]


def test_an_interrupted_unpacking_leaves_no_folder_and_is_repeated(server, folder, monkeypatch):
    extract = zipfile.ZipFile.extract
    with monkeypatch.context() as patch:

        def stop(archive, member, path):
            extract(archive, member, path)
            raise KeyboardInterrupt

        patch.setattr(zipfile.ZipFile, "extractall", lambda archive, path: stop(archive, "a.txt", path))
        with pytest.raises(KeyboardInterrupt):
            unpack(server, zipped({"a.txt": b"", "b.txt": b""}))
    assert visible(folder) == ["set.zip"]
    assert visible(unpack(server, zipped({"a.txt": b"", "b.txt": b""}))) == ["a.txt", "b.txt"]


def test_something_that_is_no_archive_is_said(server):
    with pytest.raises(ValueError, match="as a zip or tar archive"):
        unpack(server, b"hello")
