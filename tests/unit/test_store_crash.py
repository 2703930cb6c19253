"""Death at any instant, a full disk, several writers: no committed sample lost, none half-visible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ltxcore.store.blobs import Blobs
from ltxcore.store.index import Index, Overtaken
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.verify import verify

ROOT = Path(__file__).parents[2]
BIG = (64, 1024)
ARRAY = "latents/video/space/64x1024"

WRITER = """
import sys
from ltxcore.store.blobs import Blobs
from ltxcore.store.lease import writing
from tests.unit.store_crash import put_latents, LatentStore

blobs = Blobs(sys.argv[1])
with writing(blobs, "latents", sys.argv[2], on_wait=lambda who: print("waiting for", who, flush=True)):
    store = LatentStore(blobs)
    before = len(store.index)
    put_latents(store, list(range(int(sys.argv[3]))))
    print("made", len(store.index) - before, flush=True)
"""

FILL_UP = """
import errno, resource, sys
from tests.unit.test_store_crash import big_samples, ARRAY, BIG
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


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a killed process loses nothing that it gave to the kernel."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as place:
        yield Path(place)


def test_death_at_every_step_loses_nothing_and_the_work_can_be_done_again(memory_disk: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.store_crash", str(memory_disk)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 100, "steps at which it died"


def test_two_writers_at_once_do_the_work_once(tmp_path: Path) -> None:
    writers = [run(WRITER, tmp_path, name, 40) for name in ("first pipeline", "second pipeline")]
    told = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(line for text in told for line in text.splitlines() if line.startswith("made")) == [
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
    told = run(FILL_UP, small_disk, "disk").communicate(timeout=60)[0]
    assert told.startswith("ENOSPC")
    assert "free some space" in told
    committed = int(told.split()[1])
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
    told = run(FILL_UP, tmp_path, "limit").communicate(timeout=60)[0]
    assert told.startswith("EFBIG 0")
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
    assert "made 40" in waiter.communicate(timeout=60)[0]
    holder.wait()


def test_a_writer_without_the_lock_learns_that_it_was_overtaken(tmp_path: Path) -> None:
    """Both looked, then both wrote the same row: the index takes one of them."""
    blobs = Blobs(tmp_path)
    mine, theirs = LatentStore(blobs), LatentStore(blobs)
    mine.reserve(ARRAY, BIG, 2)
    theirs.put(ARRAY, big_samples(0, 1))
    late = Index(blobs, "latents/index")
    with pytest.raises(Overtaken, match="committed by another writer"):
        late.commit({"key-9": {"state": "encoded", "array": ARRAY, "row": 0}}, after=0)
    # A writer that looks again has its own row.
    mine.put(ARRAY, big_samples(1, 1))
    assert (mine.index["key-0"]["row"], mine.index["key-1"]["row"]) == (0, 1)


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
