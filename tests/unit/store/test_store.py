"""The store's promises: whole or absent, index after data, holes are loud, lost bytes are noticed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from bench.faults.suspended import Suspended
from ltxcore.store.bf16 import from_bits, to_bits
from ltxcore.store.blobs import Blobs, OutsideRoot, write_atomic
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.fingerprint import FileIdentity, canonical, derive_seed, fingerprint
from ltxcore.store.index import Index, IndexDamaged, Overtaken, damaged, mend
from ltxcore.store.latents import BF16_NAN, Encoded, LatentsLost, LatentStore
from ltxcore.store.locks import StoreBusy, exclusive
from ltxcore.store.records import (
    FORMS,
    LATENTS,
    WAVEFORMS,
    EncodedLatent,
    KnownContent,
    KnownFile,
    LatentRecord,
    Quarantined,
    StoredText,
    StoredWaveform,
    WaveformRecord,
)
from ltxcore.store.segment import encode
from ltxcore.store.texts import Embedded, TextLost, TextStore
from ltxcore.store.verify import verify
from ltxcore.store.waveforms import WaveformLost, WaveformStore

SHAPE = (4, 2, 3)


def sample(number: int) -> Encoded:
    bits = np.random.default_rng(number).integers(1, 0x7000, SHAPE, dtype=np.uint16)
    return Encoded(key=f"key-{number}", bits=bits, inputs={"kind": "video", "number": number})


def filled(root: Path, count: int) -> LatentStore:
    store = LatentStore(Blobs(root))
    store.reserve("latents/video/space/4x2x3", SHAPE, count)
    store.put("latents/video/space/4x2x3", [sample(n) for n in range(count)])
    return store


def test_bf16_survives_as_bits() -> None:
    values = torch.tensor([[1.0, -2.5, 3.0e-5], [float("inf"), 0.0, -0.0]]).to(torch.bfloat16)
    assert torch.equal(from_bits(to_bits(values)).view(torch.int16), values.view(torch.int16))


def test_a_fingerprint_depends_on_content_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_derived_seeds_differ_by_every_part() -> None:
    seeds = {derive_seed(0, "a", 1), derive_seed(1, "a", 1), derive_seed(0, "b", 1), derive_seed(0, "a", 2)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_names_cannot_leave_the_root(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "store")
    for name in ("../outside", "/etc/passwd", "a/../../b"):
        with pytest.raises(OutsideRoot):
            blobs.write(name, b"x")


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_index_is_read_by_others_and_later_segments_win(tmp_path: Path) -> None:
    def opened() -> Index[WaveformRecord]:
        return Index(Blobs(tmp_path), "index", WAVEFORMS)

    mine, theirs = opened(), opened()
    mine.commit({"a": StoredWaveform("audio/1", "1", {}), "b": StoredWaveform("audio/1", "1", {})})
    assert "a" not in theirs
    theirs.commit({"a": Quarantined("2", {})})
    mine.refresh()
    assert mine["a"] == opened()["a"] == Quarantined("2", {})
    assert theirs["b"] == StoredWaveform("audio/1", "1", {})


def test_a_record_of_another_version_is_reported_and_goes_by_repair(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old = {"state": "stored", "sha256": "0", "inputs": {}}
    new = WAVEFORMS.write(StoredWaveform("audio/1", "1", {}))
    blobs.create("audio/index/00000001.json", encode({"old": old, "new": new}))
    with pytest.raises(IndexDamaged, match=r"another version of the store.*`ltx2 verify --repair`"):
        Index(blobs, "audio/index", WAVEFORMS)
    assert mend(blobs, "audio") == 1
    assert dict(Index(blobs, "audio/index", WAVEFORMS).items()) == {"new": StoredWaveform("audio/1", "1", {})}


@pytest.mark.parametrize(
    "record",
    [
        EncodedLatent("array", 3, "c", {"kind": "video"}),
        StoredWaveform("f", "c", {"media": "m"}),
        Quarantined("why", {"media": "m"}, "content"),
        StoredText("file", 1, 2, "c", {}),
        KnownFile("name", FileIdentity(1, 2, 3), "m"),
        KnownContent("4", None, "why"),
    ],
    ids=lambda record: type(record).__name__,
)
def test_every_record_comes_back_as_it_was(record: object) -> None:
    forms = [form for form in FORMS.values() if type(record) in form.kinds.values()]
    assert forms
    for form in forms:
        assert form.read(json.loads(json.dumps(form.write(record)))) == record


def test_latents_come_back_and_a_hole_is_nan(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    store.reserve("latents/video/space/4x2x3", SHAPE, 2)
    again = LatentStore(Blobs(tmp_path))
    assert np.array_equal(again.read("key-1"), sample(1).bits)
    assert again.missing(["key-0", "key-2", "key-9"]) == ["key-9"]
    array = zarr.open_array(tmp_path / "latents/video/space/4x2x3", mode="r")
    assert array.shape[0] == 5
    assert np.array_equal(array[1], sample(1).bits), "any Zarr reads what was written"
    assert (np.asarray(array[4]) == BF16_NAN).all(), "an unwritten row must be NaN, never zeros"
    assert torch.isnan(from_bits(np.asarray(array[4]))).all()


def test_an_array_grows_where_nobody_reserved_room(tmp_path: Path) -> None:
    """Its description may be one of somebody who looked before others had written."""
    store = filled(tmp_path, 1)
    store.put("latents/video/space/4x2x3", [sample(7)])
    described = json.loads((tmp_path / "latents/video/space/4x2x3/zarr.json").read_text())
    assert described["shape"] == [2, 4, 2, 3]
    assert np.array_equal(store.read("key-7"), sample(7).bits)


def test_an_array_that_a_suspended_writer_described_too_small_counts_all_its_rows_again(
    tmp_path: Path,
) -> None:
    """It slept before it wrote the description; whoever opens the array with Zarr alone must see all rows."""
    place = tmp_path / "latents/video/space/4x2x3"
    late = LatentStore(Suspended(Blobs(tmp_path), 1, lambda: filled(tmp_path, 3)).blobs)
    with pytest.raises(Overtaken):
        late.put("latents/video/space/4x2x3", [sample(7)])
    assert np.array_equal(zarr.open_array(place, mode="r")[2], sample(2).bits)
    # One that was killed then leaves it so until the next compaction.
    described = json.loads((place / "zarr.json").read_text())
    described["shape"][0] = 1
    (place / "zarr.json").write_text(json.dumps(described))
    compact(Blobs(tmp_path), "latents", Compacted())
    assert np.array_equal(zarr.open_array(place, mode="r")[2], sample(2).bits)


def test_deleted_bytes_make_a_sample_missing_although_the_index_names_it(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    chunk = tmp_path / "latents/video/space/4x2x3/c.1.0.0.0"
    chunk.unlink()
    assert store.missing(["key-0", "key-1"]) == ["key-1"]


def test_changed_bytes_are_noticed_on_read(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    chunk = tmp_path / "latents/video/space/4x2x3/c.0.0.0.0"
    data = bytearray(chunk.read_bytes())
    data[3] ^= 0xFF
    chunk.write_bytes(bytes(data))
    with pytest.raises(LatentsLost, match="not what was written"):
        LatentStore(Blobs(tmp_path)).read("key-0")


def test_a_crash_between_data_and_index_leaves_no_sample_and_its_row_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, 1)
    store.reserve("latents/video/space/4x2x3", SHAPE, 2)
    with monkeypatch.context() as patched:
        patched.setattr(store.index, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.put("latents/video/space/4x2x3", [sample(1)])
    again = LatentStore(Blobs(tmp_path))
    assert again.missing(["key-1"]) == ["key-1"]
    again.reserve("latents/video/space/4x2x3", SHAPE, 1)
    again.put("latents/video/space/4x2x3", [sample(2)])
    assert again.index["key-2"].row == 2
    assert np.array_equal(again.read("key-2"), sample(2).bits)


def test_a_quarantined_key_is_settled_and_says_why(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    store.quarantine({"bad": "clip.mp4: frame 3 cannot be decoded"}, {"bad": {"kind": "video"}})
    assert LatentStore(Blobs(tmp_path)).missing(["bad"]) == []
    assert store.error("bad") == "clip.mp4: frame 3 cannot be decoded"
    assert store.error("key-0") is None


def embedded(name: str, tokens: int, audio: bool = False) -> Embedded:
    rng = np.random.default_rng(tokens)
    draw = lambda width: rng.integers(0, 0x7000, (tokens, width), dtype=np.uint16)  # noqa: E731
    return Embedded(f"key-{name}", name, draw(8), draw(4) if audio else None)


def test_text_rows_keep_their_own_length(tmp_path: Path) -> None:
    TextStore(Blobs(tmp_path)).put([embedded("", 1), embedded("a cat 🐈", 5, audio=True)])
    store = TextStore(Blobs(tmp_path))
    short, long = store.read("key-"), store.read("key-a cat 🐈")
    assert (short.video.shape, short.audio) == ((1, 8), None)
    assert (long.video.shape, long.caption) == ((5, 8), "a cat 🐈")
    assert long.audio is not None
    assert long.audio.shape == (5, 4)
    assert np.array_equal(long.video, embedded("a cat 🐈", 5).video)
    assert store.missing(["key-", "key-x"]) == ["key-x"]


def test_a_lost_or_broken_text_file_is_noticed(tmp_path: Path) -> None:
    TextStore(Blobs(tmp_path)).put([embedded("one", 3)])
    file = next((tmp_path / "text/features").iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TextLost, match="cannot be read"):
        TextStore(Blobs(tmp_path)).read("key-one")
    file.unlink()
    assert TextStore(Blobs(tmp_path)).missing(["key-one"]) == ["key-one"]


def test_a_text_file_that_is_changed_anywhere_is_lost_and_never_wrong(tmp_path: Path) -> None:
    store = TextStore(Blobs(tmp_path))
    rows = {row.key: row for row in (embedded(f"caption {n}", 3 + n, audio=True) for n in range(3))}
    store.put(list(rows.values()))
    file = next(tmp_path.rglob("*.arrow"))
    whole = file.read_bytes()
    lost = 0
    for at in range(0, len(whole), 5):
        file.unlink()  # What is mapped must not change under its reader.
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        again = TextStore(Blobs(tmp_path))
        for key, row in rows.items():
            try:
                found = again.read(key)
            except TextLost:
                lost += 1
            else:
                assert (found.payload, found.video.shape) == (row.payload, row.video.shape), at
    assert lost > 100
    assert {broken.part for broken in verify(Blobs(tmp_path)).broken} <= {"text"}


def test_waveforms_come_back_and_lost_ones_are_missing(tmp_path: Path) -> None:
    wave = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    WaveformStore(Blobs(tmp_path)).put({"abc": wave}, {"abc": {"media": "x"}})
    store = WaveformStore(Blobs(tmp_path))
    assert np.array_equal(store.read("abc"), wave)
    next(tmp_path.rglob("*.safetensors")).unlink()
    assert store.missing(["abc"]) == ["abc"]
    with pytest.raises(WaveformLost, match="run split-audio again"):
        store.read("abc")


def _hold(path: Path, ready: object) -> None:
    with exclusive(path, "a test"):
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_lock_names_its_holder_and_is_freed_when_the_holder_is_killed(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    holder = spawn.Process(target=_hold, args=(tmp_path / "lock", ready))
    holder.start()
    assert ready.wait(300)
    messages: list[str] = []
    with (
        pytest.raises(StoreBusy, match=f"a test, process {holder.pid}"),
        exclusive(tmp_path / "lock", "me", wait_s=0.3, on_wait=messages.append),
    ):
        pass
    assert len(messages) == 1
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with exclusive(tmp_path / "lock", "me", wait_s=5):
        pass


def test_an_index_segment_is_plain_json(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    segment = next((tmp_path / "latents/index").iterdir())
    header, (_, key, record) = json.loads(segment.read_text())
    assert (header[1:], key) == (["", {"records": 1, "note": None, "base": False}], "key-0")
    assert record["inputs"] == {"kind": "video", "number": 0}, "a miss must be able to explain itself"


def test_a_damaged_segment_is_reported_and_keeps_the_records_that_are_whole(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    blobs, before = Blobs(tmp_path), dict(store.index.items())
    file = next((tmp_path / "latents/index").iterdir())
    whole = file.read_bytes()
    assert not damaged(blobs, "latents")
    for at in range(0, len(whole), 7):
        for data in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:at]):
            file.write_bytes(data)
            # A comma or a bracket says nothing, and is not missed.
            if damaged(blobs, "latents"):
                with pytest.raises(IndexDamaged, match="`ltx2 verify --repair`"):
                    LatentStore(blobs)
                assert mend(blobs, "latents") == 1
            found = dict(LatentStore(blobs).index.items())
            assert found.items() <= before.items()
            # Two lines have become one where it was what parts them.
            assert len(found) >= (1 if len(data) == len(whole) else 0)


def test_a_damaged_compacted_segment_is_reported(tmp_path: Path) -> None:
    def opened() -> Index[LatentRecord]:
        return Index(Blobs(tmp_path), "latents/index", LATENTS)

    index, records = opened(), {"a": Quarantined("1", {}), "b": Quarantined("2", {})}
    index.commit(records)
    index.compact({}, {"ends": {"array": 3}}, index.newest)
    file = tmp_path / "latents/index/00000002.json"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([*lines[:1], *lines[2:]]))
    with pytest.raises(IndexDamaged, match="00000002"):
        opened()
    mend(Blobs(tmp_path), "latents")
    assert dict(opened().items()) == records
    file.write_bytes(b"")
    mend(Blobs(tmp_path), "latents")
    assert len(opened()) == 0


def test_a_damaged_description_of_an_array_is_written_again(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "latents/video/space/4x2x3/zarr.json").write_text('{"shape')
    store = LatentStore(Blobs(tmp_path))
    store.reserve("latents/video/space/4x2x3", SHAPE, 1)
    store.put("latents/video/space/4x2x3", [sample(2)])
    array = zarr.open_array(tmp_path / "latents/video/space/4x2x3", mode="r")
    assert np.array_equal(array[2], sample(2).bits)
