"""A full disk, a killed holder, several writers: no committed sample lost, none half-visible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.index import Index, Overtaken
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.lease import writing
from ltxcore.store.locks import StoreBusy, exclusive
from ltxcore.store.records import LATENTS, EncodedLatent
from ltxcore.store.verify import verify

ROOT = Path(__file__).parents[3]
BIG = (64, 1024)
ARRAY = "latents/video/space/64x1024"

WRITER = """
import sys
from ltxcore.store.blobs import Blobs
from ltxcore.store.lease import writing
from bench.faults.stored import LatentStore, make_latents

blobs = Blobs(sys.argv[1])
with writing(blobs, "latents", sys.argv[2], on_wait=lambda who: print("waiting for", who, flush=True)):
    print("made", make_latents(LatentStore(blobs), int(sys.argv[3])), flush=True)
"""

FILL_UP = """
import errno, resource, sys
from tests.unit.store.test_crash import big_samples, ARRAY, BIG
from ltxcore.store.blobs import Blobs, DiskFull
from ltxcore.store.latents import LatentStore

if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = LatentStore(Blobs(sys.argv[1]))
store.reserve(ARRAY, BIG, 40)
try:
    for start in range(0, 40, 4):
        store.put(ARRAY, big_samples(start, 4))
except DiskFull as error:
    print(errno.errorcode[error.errno], len(store.index), error)
"""


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True
    )


def big_samples(start: int, count: int) -> list[Encoded]:
    """Latents of 128 KiB."""
    return [
        Encoded(f"key-{n}", np.full(BIG, n, np.uint16), {"number": n}) for n in range(start, start + count)
    ]


def test_two_writers_at_once_do_the_work_once(tmp_path: Path) -> None:
    writers = [run(WRITER, tmp_path, name, 40) for name in ("first pipeline", "second pipeline")]
    outputs = [writer.communicate(timeout=300)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(line for text in outputs for line in text.splitlines() if line.startswith("made")) == [
        "made 0",
        "made 40",
    ]
    found = verify(Blobs(tmp_path))
    assert (found.checked, found.broken) == (40, ())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 2 MiB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount; the test with RLIMIT_FSIZE stands for this one")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_stops_the_writer_and_keeps_what_was_committed(small_disk: Path) -> None:
    output = run(FILL_UP, small_disk, "disk").communicate(timeout=300)[0]
    assert output.startswith("ENOSPC")
    assert "free some space" in output
    committed = int(output.split()[1])
    assert committed in (8, 12)
    found = verify(Blobs(small_disk))
    assert (found.checked, found.broken) == (committed, ())
    assert not list(small_disk.rglob("*.tmp")), "what was not finished is taken away"
    # With room again, nothing that is there is made again.
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    store = LatentStore(Blobs(small_disk))
    missing = store.missing([f"key-{n}" for n in range(40)])
    assert len(missing) == 40 - committed
    store.put(ARRAY, big_samples(committed, 40 - committed))
    assert len(verify(Blobs(small_disk)).broken) == 0


def test_a_file_that_may_not_grow_is_no_sample(tmp_path: Path) -> None:
    output = run(FILL_UP, tmp_path, "limit").communicate(timeout=300)[0]
    assert output.startswith("EFBIG 0")
    assert len(LatentStore(Blobs(tmp_path)).index) == 0
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_killed_writer_frees_its_lock(tmp_path: Path) -> None:
    holder = run(
        "import sys, time; from ltxcore.store.blobs import Blobs; from ltxcore.store.lease import writing\n"
        "with writing(Blobs(sys.argv[1]), 'latents', 'holder'):\n"
        "    print('held', flush=True); time.sleep(60)",
        tmp_path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = run(WRITER, tmp_path, "waiter", 40)
    assert waiter.stdout is not None
    assert f"waiting for holder, process {holder.pid}" in waiter.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    assert "made 40" in waiter.communicate(timeout=300)[0]
    holder.wait()


def test_a_writer_without_the_lock_learns_that_it_was_overtaken(tmp_path: Path) -> None:
    """Both looked, then both wrote the same row: the index takes one of them."""
    blobs = Blobs(tmp_path)
    mine, theirs = LatentStore(blobs), LatentStore(blobs)
    mine.reserve(ARRAY, BIG, 2)
    theirs.put(ARRAY, big_samples(0, 1))
    late = Index(blobs, "latents/index", LATENTS)
    with pytest.raises(Overtaken, match="committed by another writer"):
        late.commit({"key-9": EncodedLatent(ARRAY, 0, "", {})}, after=0)
    # A writer that looks again has its own row.
    mine.put(ARRAY, big_samples(1, 1))
    assert (mine.index["key-0"].row, mine.index["key-1"].row) == (0, 1)


def test_put_after_somebody_else_has_grown_the_array(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    mine = LatentStore(blobs)
    mine.reserve(ARRAY, BIG, 1)
    mine.put(ARRAY, big_samples(0, 1))
    theirs = LatentStore(blobs)
    theirs.reserve(ARRAY, BIG, 3)
    theirs.put(ARRAY, big_samples(1, 1))
    mine.put(ARRAY, big_samples(2, 1))
    again = LatentStore(blobs)
    assert [int(again.read(f"key-{n}")[0, 0]) for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("when", ["while it is held", "while it is waited for"])
def test_a_lock_file_that_is_deleted_lets_nobody_overwrite_a_committed_row(tmp_path: Path, when: str) -> None:
    """`rm -r store/locks` under writers: the one who lost its lock learns it, and the other's rows stay."""
    blobs = Blobs(tmp_path)
    mine, theirs = LatentStore(blobs), LatentStore(blobs)
    with writing(blobs, "latents", "mine"):
        mine.reserve(ARRAY, BIG, 4)
        (tmp_path / "locks/latents").unlink()
        with writing(blobs, "latents", "theirs", wait_s=5):
            theirs.put(ARRAY, big_samples(0, 2))
        # Mine looked before the others wrote: its row is theirs by now.
        monkey = mine.index.refresh
        mine.index.refresh = lambda: None  # type: ignore[method-assign]
        with pytest.raises(Overtaken):
            mine.put(ARRAY, big_samples(7, 2))
        mine.index.refresh = monkey  # type: ignore[method-assign]
        if when == "while it is held":
            mine.put(ARRAY, big_samples(7, 2))
    again = LatentStore(blobs)
    assert [int(again.read(f"key-{n}")[0, 0]) for n in (0, 1)] == [0, 1]
    assert verify(blobs).broken == ()


def test_a_lock_that_was_deleted_keeps_the_next_two_apart(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path, "first"):
        path.unlink()
        with (
            exclusive(path, "second"),
            pytest.raises(StoreBusy, match="written by second"),
            exclusive(path, "third", wait_s=0.1),
        ):
            pass


def test_a_row_that_a_crash_left_is_passed_over_and_goes_with_compaction(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    store = LatentStore(blobs)
    store.reserve(ARRAY, BIG, 2)
    store.put(ARRAY, big_samples(0, 1))
    left = tmp_path / ARRAY / "c.1.0.0"
    left.write_bytes(b"half of a sample")
    again = LatentStore(blobs)
    again.reserve(ARRAY, BIG, 1)
    again.put(ARRAY, big_samples(1, 1))
    assert again.index["key-1"].row == 2
    done = Compacted()
    compact(blobs, "latents", done)
    found = LatentStore(blobs)
    assert {key: record.row for key, record in found.index.items()} == {"key-0": 0, "key-1": 2}
    assert int(found.read("key-1")[0, 0]) == 1
    assert (done.trimmed, left.exists()) == (1, False)
