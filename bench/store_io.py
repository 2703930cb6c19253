"""Latents store against plain safetensors files: writing, and reading at random, in one run.

    python -m bench.store_io [SAMPLES] [DIRECTORY]

Both sides write the same latents of 128x3x16x24 bf16 (0.295 MB) and keep the same promise: when a batch of
64 is said to be written, a power cut takes none of it. The files keep it by `save_file`, an fsync of each
file, 8 at once as the store does, and one of their folder; the store by its own flush of every batch. It
also hashes what it writes, publishes it by a rename and commits it to its index, and checks what it reads.
Three rows are for comparison alone: `save_file` into the page cache, which promises nothing and measures
memory; one sync after the last file, which loses all of them until then; and an fsync of one file after
another. The number printed last is the smaller of the two ratios store / files of the same promise (writing,
reading), target 0.7. Disk figures move with what else the machine does, so the ratios are medians over
rounds in which both sides take turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.machine import describe_machine, write_table
from ltxcore.store.blobs import FLUSHES_AT_ONCE, Blobs
from ltxcore.store.latents import Encoded, LatentStore

SHAPE = (128, 3, 16, 24)
BATCH = 64
ROUNDS = 10
ARRAY = "latents/video/bench/128x3x16x24"


def rate(count: int, work: Callable[[], None]) -> float:
    """MB/s of work on `count` samples; what others left to be written is on the disk before it begins."""
    os.sync()
    began = time.perf_counter()
    work()
    return count * int(np.prod(SHAPE)) * 2 / 1e6 / (time.perf_counter() - began)


def write_store(root: Path, samples: list[np.ndarray]) -> None:
    store = LatentStore(Blobs(root))
    store.reserve(ARRAY, SHAPE, len(samples))
    for start in range(0, len(samples), BATCH):
        batch = [
            Encoded(f"key-{start + n}", bits, {"number": start + n})
            for n, bits in enumerate(samples[start : start + BATCH])
        ]
        store.put(ARRAY, batch)


def flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def write_batches(root: Path, samples: list[np.ndarray]) -> None:
    """With the store's promise: every 64 files are on the disk before the next are begun."""
    root.mkdir(parents=True)

    def write(number: int) -> None:
        path = root / f"{number}.safetensors"
        save_file({"latents": samples[number]}, path)
        flush(path)

    with ThreadPoolExecutor(FLUSHES_AT_ONCE) as pool:
        for start in range(0, len(samples), BATCH):
            list(pool.map(write, range(start, min(start + BATCH, len(samples)))))
            flush(root)


def write_files(root: Path, samples: list[np.ndarray], sync: str) -> None:
    """`sync`: `none`, `once` after the last file, or `each`."""
    root.mkdir(parents=True)
    for number, bits in enumerate(samples):
        path = root / f"{number}.safetensors"
        save_file({"latents": bits}, path)
        if sync == "each":
            flush(path)
    if sync == "once":
        os.sync()


def measure(root: Path, count: int, turn: int) -> dict[str, float]:
    """One round: every figure in MB/s. Who writes first moves on with `turn`: disks slow down on the way."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(1, 0x7000, SHAPE, dtype=np.uint16) for _ in range(count)]
    writers: dict[str, Callable[[], None]] = {
        "write, safetensors in the page cache": lambda: write_files(root / "a", samples, "none"),
        "write, safetensors, one sync at the end": lambda: write_files(root / "b", samples, "once"),
        "write, safetensors, fsync one by one": lambda: write_files(root / "c", samples, "each"),
        "write, safetensors": lambda: write_batches(root / "plain", samples),
        "write, store": lambda: write_store(root / "store", samples),
    }
    names = list(writers)
    turned = names[turn % len(names) :] + names[: turn % len(names)]
    written = {name: rate(count, writers[name]) for name in turned}
    figures = {name: written[name] for name in names}
    order = rng.permutation(count).tolist() * 2
    store = LatentStore(Blobs(root / "store"))

    def read_store() -> None:
        for number in order:
            store.read(f"key-{number}").sum()

    def read_files() -> None:
        for number in order:
            load_file(root / "plain" / f"{number}.safetensors")["latents"].sum()

    figures["read, safetensors"] = rate(len(order), read_files)
    figures["read, store"] = rate(len(order), read_store)
    return figures


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    before = os.getloadavg()[0]
    rounds = []
    for turn in range(ROUNDS):
        root = Path(tempfile.mkdtemp(dir=place, prefix="bench-store-"))
        try:
            rounds.append(measure(root, count, turn))
        finally:
            shutil.rmtree(root)
    figures = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    ratios = {
        kind: statistics.median(r[f"{kind}, store"] / r[f"{kind}, safetensors"] for r in rounds)
        for kind in ("write", "read")
    }
    rows = [[name, f"{value:.0f} MB/s"] for name, value in figures.items()]
    rows += [[f"{kind}, store / safetensors", f"{value:.2f}"] for kind, value in ratios.items()]
    load = "load " + " to ".join(f"{value:.1f}" for value in (before, os.getloadavg()[0]))
    title = (
        f"{count} latents of 0.295 MB, medians of {ROUNDS} rounds, warm reads, {load}; {describe_machine()}"
    )
    write_table("store_io", title, ["", "figure"], rows)
    print(f"{min(ratios.values()):.2f}")


if __name__ == "__main__":
    main()
