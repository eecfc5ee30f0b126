from __future__ import annotations

from pathlib import Path

import pytest

from services.tf_serving.config.placing import Change, place, plan


def ours(before: bytes) -> bool:
    return before.startswith(b"ours")


def test_a_file_is_written_replaced_left_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    new = plan(path, b"ours 1\n", ours, overwrite=False)
    assert new.change is Change.NEW and not path.exists()
    place(new)
    assert path.read_bytes() == b"ours 1\n" and path.stat().st_mode & 0o777 == 0o644
    same = plan(path, b"ours 1\n", ours, overwrite=False)
    assert (same.change, same.difference()) == (Change.SAME, "")
    changed = plan(path, b"ours 2\n", ours, overwrite=False)
    assert changed.change is Change.CHANGED
    assert changed.difference().splitlines()[2:] == ["@@ -1 +1 @@", "-ours 1", "+ours 2"]
    before = path.stat().st_ino
    place(changed)
    assert path.read_bytes() == b"ours 2\n" and path.stat().st_ino != before  # replaced, not written over
    path.write_bytes(b"theirs")
    kept = plan(path, b"ours 3\n", ours, overwrite=False)
    place(kept)
    assert (kept.change, kept.difference(), path.read_bytes()) == (Change.KEPT, "", b"theirs")
    place(plan(path, b"ours 3\n", ours, overwrite=True))
    assert path.read_bytes() == b"ours 3\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    planned = plan(path, b"ours\n", ours, overwrite=False)
    path.mkdir()
    with pytest.raises(OSError):
        place(planned)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_bytes_are_told_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    assert "0 -> 3 bytes" in plan(path, b"\xff\x00a", ours, overwrite=False).difference()
    assert "0 -> 2 bytes" in plan(path, b"\0a", ours, overwrite=False).difference()
