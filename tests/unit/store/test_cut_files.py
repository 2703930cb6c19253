"""Files of a store that are empty or cut short: not there, made again, and said in one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.faults.paths import SAMPLES, fill, put_latents, put_texts, put_waveforms, store_state
from ltxcore.store.blobs import Blobs
from ltxcore.store.latents import LatentStore, row_of
from ltxcore.store.texts import TextStore
from ltxcore.store.verify import verify
from ltxcore.store.waveforms import WaveformStore


@pytest.mark.parametrize("keep", ["nothing", "half", "all but a byte"])
@pytest.mark.parametrize(
    ("name", "put", "store", "lost"),
    [
        ("latent", put_latents, LatentStore, 1),
        ("sound", put_waveforms, WaveformStore, 1),
        ("text", put_texts, TextStore, 2),
    ],
)
def test_a_row_file_without_its_end_is_made_again(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    put: Callable[[Blobs, int], None],
    store: type[LatentStore] | type[WaveformStore] | type[TextStore],
    lost: int,
    keep: str,
) -> None:
    blobs = Blobs(tmp_path)
    fill(blobs)
    before = store_state(blobs)
    folder = {"latent": "latents", "sound": "audio", "text": "text/features"}[name]
    rows = [file for file in blobs.walk(folder) if "/index/" not in file]
    victim = tmp_path / min(f for f in rows if name != "latent" or row_of(f) is not None)
    data = victim.read_bytes()
    victim.write_bytes(data[: {"nothing": 0, "half": len(data) // 2}.get(keep, len(data) - 1)])
    keys = [f"{name}-{number}" for number in range(SAMPLES)]
    with caplog.at_level(logging.WARNING, "ltxcore.store.present"):
        missing = store(blobs).missing(keys)
        assert store(blobs).missing(keys) == missing
    assert len(missing) == lost
    assert [r.getMessage() for r in caplog.records] == [
        f"{victim.relative_to(tmp_path)} in {blobs.url}: empty or cut short; made again"
    ]
    put(blobs, SAMPLES)
    assert store(blobs).missing(keys) == []
    assert store_state(blobs) == before
    assert verify(blobs).broken == ()
