"""What tells whether a file is still what was read: size, modification time and change time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ltxcore.models.files import hashes
from ltxcore.models.files.hashes import FINGERPRINTS, remembered_hashes
from ltxcore.store.fingerprint import FileIdentity, hash_file


def change_in_place(path: Path) -> None:
    """Other bytes of the same size under the same modification time, as rsync --inplace -t leaves them."""
    before = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_content_that_is_changed_in_place_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    before, hashed = FileIdentity.of(file), remembered_hashes([file], tmp_path)[file]
    change_in_place(file)
    after = FileIdentity.of(file)
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after != before
    assert remembered_hashes([file], tmp_path)[file] == hash_file(file) != hashed


def test_another_inode_alone_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    hashed = remembered_hashes([file], tmp_path)
    info = file.stat()
    renumbered = os.stat_result(
        tuple(info.st_ino + 1 if n == 1 else value for n, value in enumerate(info)),
        {"st_mtime_ns": info.st_mtime_ns, "st_ctime_ns": info.st_ctime_ns},
    )
    assert FileIdentity.of_stat(renumbered) == FileIdentity.of(file)
    monkeypatch.setattr(Path, "stat", lambda self, **more: renumbered)
    monkeypatch.setattr(hashes, "hash_file", lambda path: pytest.fail("read again"))
    assert remembered_hashes([file], tmp_path) == hashed


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff\xfe"])
def test_a_damaged_memory_of_hashes_is_written_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    hashed = remembered_hashes([file], tmp_path)
    (tmp_path / FINGERPRINTS).write_bytes(content)
    assert remembered_hashes([file], tmp_path) == hashed
    assert "is damaged and is written anew" in caplog.text
    caplog.clear()
    assert remembered_hashes([file], tmp_path) == hashed
    assert not caplog.text


def test_a_copy_has_an_identity_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    shutil.copy2(tmp_path / "a", tmp_path / "b")
    assert FileIdentity.of(tmp_path / "a") != FileIdentity.of(tmp_path / "b")
