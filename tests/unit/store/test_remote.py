"""A store on S3, spoken to over HTTP: whole or absent, one writer at a time, and no row written twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from math import inf
from pathlib import Path

import numpy as np
import pytest

from bench.faults.stored import ARRAY, SHAPE, bits, fill, store_state
from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.index import Overtaken
from ltxcore.store.latents import Encoded, LatentsLost, LatentStore, chunk_of
from ltxcore.store.lease import Lease, LeaseLost, NotExclusive, writing
from ltxcore.store.locks import StoreBusy
from ltxcore.store.records import EncodedLatent
from ltxcore.store.refs import Ref, Refs, needed, workspace_of
from ltxcore.store.sweep import sweep_part
from ltxcore.store.verify import forget_broken, verify
from tests.unit.store.test_crash import ROOT, WRITER

HOLD = """
import sys, time
from ltxcore.store.blobs import Blobs
from ltxcore.store.lease import writing
with writing(Blobs(sys.argv[1]), "latents", "holder", lease_s=4):
    print("held", flush=True)
    time.sleep(600)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_the_same_store_works_on_s3(bucket: str) -> None:
    blobs = Blobs(bucket)
    fill(blobs)
    assert len(store_state(Blobs(bucket))) == 24
    store = LatentStore(Blobs(bucket))
    assert store.missing(["latent-0", "latent-9"]) == ["latent-9"]
    blobs.delete([chunk_of(store.index["latent-0"])])
    assert store.missing(["latent-0", "latent-1"]) == ["latent-0"]
    with pytest.raises(LatentsLost):
        store.read("latent-0")
    found = verify(blobs)
    assert [broken.key for broken in found.broken] == ["latent-0"]
    assert forget_broken(blobs, "latents", found.broken) == 1
    fill(blobs)
    assert len(store_state(Blobs(bucket))) == 24


def test_any_zarr_reads_the_arrays_of_s3(bucket: str, s3_server: str) -> None:
    import zarr

    fill(Blobs(bucket))
    array = zarr.open_array(f"{bucket}/{ARRAY}", mode="r", storage_options={"asynchronous": True})
    assert array.attrs["dtype"] == "bfloat16"
    row = LatentStore(Blobs(bucket)).index["latent-2"].row
    assert np.array_equal(array[row], bits(2))


def test_of_many_who_create_a_name_one_succeeds(bucket: str) -> None:
    blobs = Blobs(bucket)
    won: list[int] = []
    lost: list[int] = []

    def create(number: int) -> None:
        try:
            blobs.create("name", str(number).encode())
            won.append(number)
        except FileExistsError:
            lost.append(number)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert blobs.read("name") == str(won[0]).encode()


def test_two_processes_on_s3_do_the_work_once(bucket: str) -> None:
    writers = [start(WRITER, bucket, name, "12") for name in ("first pipeline", "second pipeline")]
    outputs = [writer.communicate(timeout=600)[0] for writer in writers]
    assert sorted(text.splitlines()[-1] for text in outputs) == ["made 0", "made 12"]
    found = verify(Blobs(bucket))
    assert (found.checked, found.broken) == (12, ())


def test_a_killed_holder_is_waited_for_by_name_and_succeeded(bucket: str) -> None:
    holder = start(HOLD, bucket)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    messages: list[str] = []
    with (
        pytest.raises(StoreBusy, match=f"holder, process {holder.pid}"),
        writing(Blobs(bucket), "latents", "me", wait_s=6, on_wait=messages.append),
    ):
        pass
    assert len(messages) == 1, "a holder that renews its lease keeps it for longer than it lasts"
    holder.kill()
    holder.wait()
    with writing(Blobs(bucket), "latents", "me", wait_s=300):
        assert len(Blobs(bucket).list("locks/latents")) == 1


def test_who_slept_through_its_lease_can_commit_nothing(bucket: str) -> None:
    """A writer that was suspended wakes up beside its successor, with a batch in its hands."""
    blobs = Blobs(bucket)
    sleeper = LatentStore(blobs)
    sleeper.reserve(ARRAY, SHAPE, 2)
    lease = Lease(blobs, "locks/latents", 1, "sleeper", 0.1)
    lease.create()
    with writing(blobs, "latents", "successor", wait_s=300):
        heir = LatentStore(blobs)
        heir.put(ARRAY, [Encoded("heir", bits(7), {"kind": "video"})])
    # It had looked before the successor wrote: the same row, the same segment number.
    after, records = 0, {"sleeper": EncodedLatent(ARRAY, 0, "", {})}
    with pytest.raises(FileExistsError):
        blobs.write_all({chunk_of(records["sleeper"]): bits(8).tobytes()}, replace=False)
    with pytest.raises(Overtaken):
        sleeper.index.commit(records, after)
    assert np.array_equal(LatentStore(blobs).read("heir"), bits(7))
    stop = threading.Event()
    lease.keep(stop)
    assert lease.lost is not None
    assert "taken over" in lease.lost


def test_a_lease_that_went_to_another_is_an_error_at_the_end(bucket: str) -> None:
    blobs = Blobs(bucket)

    def be_robbed() -> None:
        with writing(blobs, "text", "me", lease_s=0.4):
            Lease(blobs, "locks/text", 2, "thief", 60).create()
            while any(thread.name == "lease text" for thread in threading.enumerate()):
                time.sleep(0.05)

    with pytest.raises(LeaseLost, match="taken over"):
        be_robbed()


def test_a_store_without_conditional_writes_is_refused(tmp_path: Path) -> None:
    class Careless(Blobs):
        """As an object store that does not know If-None-Match."""

        @property
        def local(self) -> Path | None:
            return None

        def create(self, name: str, data: bytes) -> None:
            self.write(name, data)

        def write(self, name: str, data: bytes) -> None:
            path = Path(self.path(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    with (
        pytest.raises(NotExclusive, match="conditional writes"),
        writing(Careless(tmp_path), "latents", "me"),
    ):
        pass


def test_sweep_and_compaction_on_s3_never_use_a_row_again(bucket: str) -> None:
    blobs = Blobs(bucket)
    fill(blobs)
    before = LatentStore(blobs)
    sweep_part(blobs, "latents", lambda: {"latents": {"latent-1", "latent-2"}}, inf)
    compact(blobs, "latents", done := Compacted())
    assert done.segments == 6, "a sweep notes what will go before it goes"
    assert len(blobs.list("latents/index")) == 1
    # A reader with the old index still finds its samples.
    assert np.array_equal(before.read("latent-2"), bits(2))
    store = LatentStore(blobs)
    store.reserve(ARRAY, SHAPE, 1)
    store.put(ARRAY, [Encoded("latent-9", bits(9), {"kind": "video"})])
    assert store.index["latent-9"].row == 8, "rows 0 and 3 are free, but who lost its lease may not know"


def test_references_of_several_workspaces(bucket: str) -> None:
    refs = Refs(Blobs(bucket))
    refs.publish("aaa", Ref(workspace="/a", directory="stages/embed-text/1", needs={"text": ("k",)}))
    refs.publish("bbb", Ref(workspace="/b", directory="stages/embed-text/1", needs={"text": ("l",)}))
    first, second = sorted(refs.load())
    assert (workspace_of(first), workspace_of(second)) == ("aaa", "bbb")
    refs.publish("aaa", Ref(workspace="/a", directory="stages/embed-text/1", needs={"text": ("m",)}))
    # Who meant the first one takes away no other.
    refs.drop([first])
    assert refs.has("aaa", "stages/embed-text/1")
    assert needed(list(refs.load().values())) == {"text": {"l", "m"}}
    refs.drop([name for name in refs.load() if workspace_of(name) == "aaa"])
    assert [ref.workspace for ref in refs.load().values()] == ["/b"]
