"""What becomes of a dataset under a run: a clip is replaced, removed, cut or a pipe, or all of it is away."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

from tests.stages.conftest import Bench

CLIP, OTHER = "red-disc-right.mp4", "blue-box-up.mp4"
FREE_BOX = b"\0\0\0\x08free"
"""At the end of an MP4 it makes another content of the same pictures and sound."""


def replace(bench: Bench, clip: str = CLIP) -> None:
    shutil.copy2(bench.clips / (CLIP if clip == OTHER else OTHER), bench.clips / clip)


def replace_in_place(bench: Bench, clip: str = CLIP) -> None:
    """Other bytes under the old size and time, as rsync --inplace -t leaves them."""
    file = bench.clips / clip
    info, content = file.stat(), file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


def remove(bench: Bench, clip: str = CLIP) -> None:
    (bench.clips / clip).unlink()


def cut(bench: Bench, clip: str = CLIP) -> None:
    """Half of a copy that goes on."""
    content = (bench.clips / clip).read_bytes()
    (bench.clips / clip).write_bytes(content[: len(content) // 2])


def put_a_pipe(bench: Bench, clip: str = CLIP) -> None:
    """Whoever opens it waits for a writer without end."""
    (bench.clips / clip).unlink()
    os.mkfifo(bench.clips / clip)


def unmount(bench: Bench, clip: str = CLIP) -> None:
    bench.clips.rename(bench.clips.with_name("unmounted"))


def what_is_named(change: Callable[..., None], bench: Bench, clip: str = CLIP) -> str:
    """A pattern of what a stage says is missing after a change: the clip, or the whole folder once."""
    return re.escape(f"the folder {bench.clips} is gone") if change is unmount else re.escape(clip)


CHANGES = (replace, replace_in_place, remove, cut, put_a_pipe, unmount)


class Saved:
    """A dataset as it is now, beside the bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._kept = bench, bench.root / "kept"
        shutil.copytree(bench.clips, self._kept)

    def restore(self) -> None:
        """Put it back."""
        if not self._bench.clips.exists():
            self._bench.clips.with_name("unmounted").rename(self._bench.clips)
        for file in self._kept.iterdir():
            there = self._bench.clips / file.name
            if there.is_fifo():
                there.unlink()
            shutil.copy2(file, there)

    def make_another(self, clip: str = CLIP) -> None:
        """Give the clip another content, which `restore` takes away again."""
        with (self._bench.clips / clip).open("ab") as file:
            file.write(FREE_BOX)
