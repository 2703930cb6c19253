"""The clips of a directory, and the complete plan of each: what is shown, heard and said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ltxcore.config.datasets import VideoDataset
from ltxcore.media.buckets import geometry
from ltxcore.media.captions import read_captions
from ltxcore.media.frames import plan_frames
from ltxcore.media.probe import AudioStream, MediaProbe
from ltxcore.store.snapshot import AudioPlan, FramePlan, Sample

EXTENSIONS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpeg", ".mpg", ".gif"})


def list_files(root: Path, skip: tuple[Path, ...] = ()) -> list[Path]:
    """Everything under `root` that must end as a sample or as a rejection, in the order of relative paths.

    That is: files, and links to files or to nothing, with the extension of a video; and directories that
    cannot be read, which `probe` rejects. Hidden names and the directories in `skip` (the workspace) are
    passed over. Links to directories are followed, but never back into a directory that holds them.

    Raises:
        OSError: `root` itself cannot be read.
    """
    os.scandir(root).close()
    skipped = {path.resolve() for path in skip}
    found = list(_walk(root, skipped, (root.resolve(),)))
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _walk(directory: Path, skipped: set[Path], above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        yield directory
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry):  # noqa: PTH112 - Path.is_dir raises where a directory cannot be searched
            real = entry.resolve()
            if real not in above and real not in skipped:
                yield from _walk(entry, skipped, (*above, real))
        elif entry.suffix.lower() in EXTENSIONS and not _is_special(entry):
            yield entry


def _is_special(entry: Path) -> bool:
    """A pipe, socket or device, also behind a link: reading it might never end."""
    return os.path.exists(entry) and not os.path.isfile(entry)  # noqa: PTH110, PTH113 - as above


def sample_id(dataset: VideoDataset, root: Path, path: Path) -> str:
    """`dataset/relative path with its extension`; bytes that are not UTF-8 are written as `\\xNN`."""
    relative = path.relative_to(root).as_posix()
    printable = os.fsencode(relative).decode("utf-8", "backslashreplace")
    return f"{dataset.id}/{printable}"


def plan_sample(dataset: VideoDataset, root: Path, path: Path, media_id: str, probe: MediaProbe) -> Sample:
    """All that the later stages need to know of one clip.

    Args:
        media_id: sha256 of the file.

    Raises:
        MediaError: the clip cannot be used in this dataset, and why.
    """
    cut = geometry(dataset, probe.video.width, probe.video.height, media_id)
    frames = plan_frames(probe, dataset.video)
    audio, audio_notes = _plan_audio(dataset, probe.audio, frames)
    return Sample(
        id=sample_id(dataset, root, path),
        dataset=dataset.id,
        path=path.relative_to(root).as_posix(),
        media_id=media_id,
        captions=read_captions(dataset, path),
        frames=frames,
        geometry=cut,
        audio=audio,
        notes=(*probe.notes, *audio_notes),
        source_fps=probe.video.fps,
        source_duration_s=probe.video.duration_s,
        visits=dataset.repeats + 1,
        probability=dataset.probability,
    )


def _plan_audio(
    dataset: VideoDataset, stream: AudioStream | None, frames: FramePlan
) -> tuple[AudioPlan | None, tuple[str, ...]]:
    """The sound under the frames that were chosen, from the first one's start to the last one's end."""
    if not dataset.audio.auto_split:
        return None, ()
    if stream is None:
        return None, ("has no sound",)
    end_s = None if stream.duration_s is None else stream.start_s + stream.duration_s
    frames_end_s = frames.start_s + frames.duration_s
    if stream.start_s >= frames_end_s or (end_s is not None and end_s <= frames.start_s):
        return None, ("its sound is elsewhere in time than its frames",)
    plan = AudioPlan(
        start_s=frames.start_s,
        duration_s=frames.duration_s,
        channels=stream.channels,
        layout=stream.layout,
    )
    return plan, ()
