"""Downloads against a server of our own, which cuts connections and lies when told to."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tlcourse import runtime
from tlcourse.data import downloads as assets

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
def no_data(monkeypatch):
    monkeypatch.delenv("TLCOURSE_DATA", raising=False)


def fetch(server, tmp_path, name="photos.bin", content=CONTENT, **options):
    return assets.fetch(f"{server.address}/{name}", sha256(content), folder=tmp_path / "down", waits=(0, 0), **options)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_then_no_network(server, tmp_path):
    server.files["photos.bin"] = CONTENT
    path = fetch(server, tmp_path)
    assert path == tmp_path / "down" / "photos.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(server, tmp_path) == path
    assert len(server.requests) == 1, "a file that is here and right needs no request"
    assert visible(path.parent) == ["photos.bin"]


def test_md5_and_default_folder(server, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_current", None)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path))
    server.files["a.bin"] = CONTENT
    path = assets.fetch(f"{server.address}/a.bin?version=2", f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert path == tmp_path / "downloads" / "a.bin"


def test_wrong_content_is_refused_and_not_left_behind(server, tmp_path):
    server.files["photos.bin"] = b"log in to use this network"
    with pytest.raises(assets.OfflineError, match="bin: the content has another hash than expected"):
        fetch(server, tmp_path)
    assert visible(tmp_path / "down") == []


def test_damaged_file_is_downloaded_again(server, tmp_path):
    server.files["photos.bin"] = CONTENT
    fetch(server, tmp_path).write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    server.files["photos.bin"] = CONTENT
    server.cuts = [700_000, 300_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted in server.requests[1:]]
    assert [wanted for _, wanted in server.requests[:1]] == [None]
    assert 0 < starts[0] <= 700_000
    assert starts[0] < starts[1] <= 1_000_000


def test_a_later_run_continues_what_an_earlier_one_left(server, tmp_path):
    server.files["photos.bin"] = CONTENT
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "photos.bin.part").write_bytes(CONTENT[:500_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("photos.bin", "bytes=500000-")]


@pytest.mark.parametrize("left", [b"another file's beginning", CONTENT + b"too long"])
def test_a_beginning_of_another_file_is_thrown_away(server, tmp_path, left):
    server.files["photos.bin"] = CONTENT
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "photos.bin.part").write_bytes(left)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    server.files["photos.bin"] = CONTENT
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "photos.bin.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.files["photos.bin"], server.ranges, server.cuts = CONTENT, False, [700_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_not_found_goes_to_the_mirror_at_once(server, tmp_path):
    server.files["mirror/photos.bin"] = CONTENT
    path = fetch(server, tmp_path, mirrors=[f"{server.address}/mirror/photos.bin"])
    assert path.read_bytes() == CONTENT
    assert [name for name, _ in server.requests] == ["photos.bin", "mirror/photos.bin"]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files["photos.bin"], server.errors = CONTENT, [503, 429]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_waits_are_kept(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(assets.time, "sleep", slept.append)
    server.errors = [503] * 3
    with pytest.raises(assets.OfflineError, match="the server answers 503"):
        assets.fetch(f"{server.address}/photos.bin", sha256(CONTENT), folder=tmp_path)
    assert slept == list(assets.WAITS)


def test_without_a_server_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "stick"))
    gone = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gone.server_close()
    url = f"http://127.0.0.1:{gone.server_address[1]}/photos.bin"
    with pytest.raises(assets.OfflineError) as caught:
        assets.fetch(url, sha256(CONTENT), folder=tmp_path / "down", waits=(0,))
    message = str(caught.value)
    for part in (url, "no connection", str(tmp_path / "down"), str(tmp_path / "stick"), sha256(CONTENT), "mini"):
        assert part in message
    assert visible(tmp_path / "down") == []


def test_given_data_is_used_first_and_never_changed(server, tmp_path, monkeypatch):
    stick = tmp_path / "stick"
    stick.mkdir()
    monkeypatch.setenv("TLCOURSE_DATA", str(stick))
    (stick / "photos.bin").write_bytes(CONTENT)
    assert fetch(server, tmp_path) == stick / "photos.bin"
    assert server.requests == []
    (stick / "photos.bin").write_bytes(b"damaged")
    with pytest.raises(assets.OfflineError, match="it is damaged"):
        fetch(server, tmp_path)
    server.files["photos.bin"] = CONTENT
    assert fetch(server, tmp_path) == tmp_path / "down" / "photos.bin"
    assert (stick / "photos.bin").read_bytes() == b"damaged"


def test_two_at_a_time_download_once(server, tmp_path):
    server.files["photos.bin"] = CONTENT
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server, tmp_path))) for _ in range(4)]
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


def unpack(server, tmp_path, content, name="set.zip"):
    server.files[name] = content
    return assets.fetch_archive(f"{server.address}/{name}", sha256(content), folder=tmp_path / "down", waits=())


@pytest.mark.parametrize(("pack", "name"), [(zipped, "set.zip"), (tarred, "set.tar.gz")])
def test_an_archive_is_unpacked_once(server, tmp_path, pack, name):
    content = pack({"a/1.txt": b"one", "b/2.txt": b"two"})
    folder = unpack(server, tmp_path, content, name)
    assert folder == tmp_path / "down" / "set"
    assert (folder / "a" / "1.txt").read_bytes() == b"one"
    (tmp_path / "down" / name).unlink()
    assert unpack(server, tmp_path, content, name) == folder
    assert len(server.requests) == 1


def test_a_single_folder_inside_is_returned(server, tmp_path):
    content = zipped({"photos/a/1.txt": b"1", "__MACOSX/photos/x": b""})
    assert unpack(server, tmp_path, content) == tmp_path / "down" / "set" / "photos"


def test_a_given_folder_needs_no_archive(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "stick"))
    for name in ("train", "val"):
        (tmp_path / "stick" / "set" / name).mkdir(parents=True)
    assert unpack(server, tmp_path, b"") == tmp_path / "stick" / "set"
    assert server.requests == []


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_that_would_land_outside_are_refused(server, tmp_path, pack, name):
    with pytest.raises(ValueError, match="outside"):
        unpack(server, tmp_path, pack({"good.txt": b"", name: b"evil"}))
    assert visible(tmp_path / "down") == ["set.zip"], "nothing half unpacked is left"
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_a_tar_are_refused(server, tmp_path):
    with pytest.raises(ValueError, match="link"):
        unpack(server, tmp_path, tarred({"a.txt": b""}, link="etc"), "set.tar")
    assert visible(tmp_path / "down") == ["set.tar"]


def test_what_a_dead_process_left_half_unpacked_is_cleared(server, tmp_path):
    left = tmp_path / "down" / ".set.unfinished"
    left.mkdir(parents=True)
    (left / "old.txt").write_text("old")
    folder = unpack(server, tmp_path, zipped({"a.txt": b"", "b.txt": b""}))
    assert visible(folder) == ["a.txt", "b.txt"]


def test_something_that_is_no_archive_is_said(server, tmp_path):
    with pytest.raises(ValueError, match="neither a zip nor a tar"):
        unpack(server, tmp_path, b"hello")
