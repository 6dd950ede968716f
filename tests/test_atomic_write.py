"""A file is written whole or not at all."""

import os

import pytest

from tlcourse.atomic_write import atomic_write


def test_a_file_is_complete_and_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    file, calls = tmp_path / "deep" / "file.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("flush"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    with atomic_write(file) as part:
        part.write_text("new")
        assert not file.exists()
        assert calls == []
    assert file.read_text() == "new"
    assert calls[:2] == ["flush", "rename"]
    assert list(file.parent.iterdir()) == [file]


def test_an_error_leaves_the_file_of_before_and_nothing_else(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")

    def write_half():
        with atomic_write(file) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name == "nt", reason="rights of Unix")
def test_others_may_read_what_they_may_read_of_any_file(tmp_path):
    file, usual = tmp_path / "file.txt", tmp_path / "usual.txt"
    usual.touch()

    def write():
        with atomic_write(file) as part:
            part.touch(0o600)  # as some libraries do

    write()
    assert file.stat().st_mode == usual.stat().st_mode
    file.chmod(0o640)
    write()
    assert file.stat().st_mode & 0o777 == 0o640
    file.chmod(0o444)  # the folder's rights decide
    write()
    assert file.stat().st_mode & 0o777 == 0o444


@pytest.mark.skipif(os.name == "nt", reason="links of Unix")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "deep").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "deep" / "file.txt")
    with atomic_write(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "deep" / "file.txt").read_text() == "new"
