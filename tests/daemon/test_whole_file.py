"""A file is there whole or not at all (service/whole_file.py), on a real file system."""

import os
import resource
from pathlib import Path

import pytest

from ctfw.service.whole_file import replacing


def test_the_old_text_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with replacing(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_what_ends_in_the_middle_leaves_the_old_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(str(path)) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_the_mode_holds_whatever_the_umask_and_the_draft_of_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    draft = tmp_path / "kept.new"
    draft.write_text("much longer than what is written now")
    draft.chmod(0o666)
    before = os.umask(0o077)
    try:
        with replacing(str(path), mode=0o644) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_in_the_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "kept.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), replacing(str(tmp_path / "kept")) as file:
        file.write(b"new")
    assert victim.read_text() == "mine"


def test_an_error_names_the_file(tmp_path: Path) -> None:
    """That of a full disk comes without."""
    path = str(tmp_path / "kept")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found, replacing(path) as file:
            file.write(b"more than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.filename == path
