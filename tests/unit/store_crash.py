"""Run as a process: works on stores and kills itself, by SIGKILL, at each step of the work in turn.

A step is a file that is opened, made, renamed, linked or removed in the store, as Python's audit events
tell. After every death the store is looked at, the work is done once more, and looked at again.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.lease import writing
from ltxcore.store.sweep import sweep_part
from ltxcore.store.texts import Embedded, TextStore
from ltxcore.store.verify import verify
from ltxcore.store.waveforms import WaveformStore

SHAPE = (2, 3)
ARRAY = "latents/video/space/2x3"
STEPS = {"open", "os.rename", "os.link", "os.mkdir", "os.remove"}
PARTS = ("latents", "audio", "text")


def bits(number: int) -> np.ndarray:
    return np.full(SHAPE, number + 1, np.uint16)


def put_latents(store: LatentStore, wanted: list[int]) -> None:
    missing = set(store.missing([f"latent-{n}" for n in wanted]))
    waiting = [n for n in wanted if f"latent-{n}" in missing]
    for start in range(0, len(waiting), 2):
        batch = waiting[start : start + 2]
        store.reserve(ARRAY, SHAPE, len(waiting) - start)
        store.put(ARRAY, [Encoded(f"latent-{n}", bits(n), {"kind": "video", "media": str(n)}) for n in batch])


def fill(blobs: Blobs, numbers: range = range(4)) -> None:
    """Latents in batches of two, sounds, captions: what is there already is not made again."""
    with writing(blobs, "latents", "crash"):
        put_latents(LatentStore(blobs), list(numbers))
    with writing(blobs, "audio", "crash"):
        sounds = WaveformStore(blobs)
        missing = sounds.missing([f"sound-{n}" for n in numbers])
        waves = {key: np.full((2, 4), len(key), np.float32) for key in missing}
        sounds.put(waves, {key: {"kind": "waveform", "media": "m"} for key in missing})
    with writing(blobs, "text", "crash"):
        texts = TextStore(blobs)
        for key in texts.missing([f"text-{n}" for n in numbers]):
            texts.put([Embedded(key, key, bits(1), None, inputs={"kind": "text"})])


def tidy(blobs: Blobs) -> None:
    """Sweep every second sample and compact what is left."""
    needed = {
        "latents": {"latent-1", "latent-3"},
        "audio": {"sound-1", "sound-3"},
        "text": {"text-1", "text-3"},
    }
    for part in PARTS:
        with writing(blobs, part, "crash"), writing(blobs, "refs", "crash"):
            sweep_part(blobs, part, needed, 0)
            compact(blobs, part, Compacted())


def look(blobs: Blobs) -> set[str]:
    """The committed samples, each of which must be whole, and the one that was written."""
    found = verify(blobs)
    if found.broken:
        raise AssertionError(f"half-visible or lost: {found.broken}")
    latents = LatentStore(blobs)
    for key, _ in latents.index.items():
        if not np.array_equal(latents.read(key), bits(int(key.rpartition("-")[2]))):
            raise AssertionError(f"{key} is another sample")
    keys = [WaveformStore(blobs).index.items(), TextStore(blobs).index.items(), latents.index.items()]
    return {key for items in keys for key, _ in items}


def in_child(work: Callable[[], object], root: Path, die_at: int | None = None) -> int:
    """Run `work` in a process of its own, which dies at the step `die_at`; returns its wait status."""
    child = os.fork()
    if child == 0:
        steps = 0

        def step(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal steps
            if event in STEPS and str(root) in str(arguments[0]):
                steps += 1
                if steps == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(step)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it must not unwind into the parent's code
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def every_death(base: Path, prepare: Callable[[Blobs], object], work: Callable[[Blobs], object]) -> int:
    """Let `work` die at each of its steps; returns at how many it did."""
    prepare(Blobs(base / "prepared"))
    before = look(Blobs(base / "prepared"))
    for die_at in count(1):
        root = base / f"store-{die_at}"
        shutil.copytree(base / "prepared", root)
        status = in_child(partial(work, Blobs(root)), root, die_at)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) != 0:
                raise AssertionError("the work failed by itself")
            return die_at - 1
        after = look(Blobs(root))
        if work is fill and not before <= after:
            raise AssertionError(f"lost at step {die_at}: {before - after}")
        if work is tidy and not {"latent-1", "latent-3", "sound-1", "text-3"} <= after:
            raise AssertionError(f"lost what is needed at step {die_at}: {after}")
        if in_child(partial(work, Blobs(root)), root) != 0:
            raise AssertionError(f"the work cannot be done after a death at step {die_at}")
        done = look(Blobs(root))
        wanted = 12 if work is fill else 6
        if len(done) != wanted:
            raise AssertionError(f"{sorted(done)} after a death at step {die_at}")
    raise AssertionError("unreachable")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    deaths = every_death(place / "fill", lambda blobs: fill(blobs, range(2)), fill)
    deaths += every_death(place / "tidy", fill, tidy)
    print(deaths)
