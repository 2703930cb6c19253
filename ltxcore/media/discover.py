"""The files of a directory that are for its dataset, and the captions in it that belong to none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ltxcore.config.dataset_kinds import AudioDataset, ConditioningDataset, ImageDataset, Media

EXTENSIONS = frozenset(
    {
        *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpeg", ".mpg", ".gif"),
        *(".ts", ".mts", ".m2ts", ".vob", ".wmv", ".asf", ".flv", ".ogv", ".3gp", ".3g2", ".mxf"),
    }
)
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
SOUNDS = frozenset(
    {
        *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"),
        *(".oga", ".m4b", ".mka", ".wma", ".aif", ".aiff"),
    }
)
WITH_SOUND = SOUNDS | (EXTENSIONS - {".gif"})
MEDIA = EXTENSIONS | IMAGES | SOUNDS
UNREAD = frozenset(
    {
        *(".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
        *(".rm", ".rmvb", ".y4m", ".h264", ".h265", ".hevc", ".swf", ".ape", ".wv", ".amr", ".mid"),
    }
)
"""Pictures, videos and sounds of which somebody may think that they are read."""
NAMES = {"image": "a picture", "audio": "a sound", "video": "a video"}
CAPTION = ".txt"


def extensions(dataset: Media | ConditioningDataset) -> frozenset[str]:
    """Which files are for a dataset. Containers may hold sound alone, so an audio dataset takes them too."""
    if isinstance(dataset, ImageDataset):
        return IMAGES
    if isinstance(dataset, ConditioningDataset):
        return EXTENSIONS | IMAGES
    return WITH_SOUND if isinstance(dataset, AudioDataset) else EXTENSIONS


def list_files(root: Path, skip: tuple[Path, ...] = (), endings: frozenset[str] = EXTENSIONS) -> list[Path]:
    """Everything under `root` that must end as a sample or as a rejection, in the order of relative paths.

    That is: files, and links to files or to nothing, with one of the extensions; and directories that
    cannot be read, which `probe` rejects. Hidden names and the directories in `skip` (the workspace) are
    passed over. Links to directories are followed, but never back into a directory that holds them.

    Raises:
        OSError: `root` itself cannot be read.
    """
    os.scandir(root).close()
    skipped = {path.resolve() for path in skip}
    found = list(_walk(root, skipped, (root.resolve(),), endings))
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def stray_captions(root: Path, skip: tuple[Path, ...] = ()) -> list[Path]:
    """Caption files beside which there is no video, picture or sound of their name."""
    found = []
    for directory, names in _names(root, skip):
        media = {name for name in names if _ending(name) in MEDIA | UNREAD}
        owners = media | {name.rpartition(".")[0] for name in media}
        found += [
            directory / name
            for name in names
            if name.lower().endswith(CAPTION) and name[: -len(CAPTION)] not in owners
        ]
    return sorted(found)


def media_files(root: Path, skip: tuple[Path, ...] = ()) -> list[Path]:
    """Every file whose name is that of a video, picture or sound, whether or not such are read."""
    found = _names(root, skip)
    return sorted(d / name for d, names in found for name in names if _ending(name) in MEDIA | UNREAD)


def why_not_taken(path: Path, dataset: Media | ConditioningDataset) -> str:
    """What a person should know of a media file that no dataset takes."""
    ending = _ending(path.name)
    if ending in UNREAD:
        return f"is of a kind that is not read ({ending}); convert it, e.g. to PNG, MP4 or WAV"
    if ending in extensions(dataset):
        return "is not a regular file"
    kind = "image" if ending in IMAGES else "audio" if ending in SOUNDS else "video"
    told = f"is {NAMES[kind]}, and `{dataset.id}` is a dataset of dataset_type {dataset.dataset_type}"
    return f"{told}; to train on it as well, add one of dataset_type {kind} with this directory"


def _names(root: Path, skip: tuple[Path, ...]) -> Iterator[tuple[Path, list[str]]]:
    """The directories under `root` with the names of their files, but for what is hidden and in `skip`.

    Only names are read, so that this costs little; directories behind links are not looked into.
    """
    skipped, real = {str(path.resolve()) for path in skip}, root.resolve()
    for directory, folders, names in os.walk(real):
        folders[:] = [n for n in folders if not n.startswith(".") and f"{directory}/{n}" not in skipped]
        yield root / Path(directory).relative_to(real), [n for n in names if not n.startswith(".")]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - speed


def _walk(
    directory: Path, skipped: set[Path], above: tuple[Path, ...], endings: frozenset[str]
) -> Iterator[Path]:
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
                yield from _walk(entry, skipped, (*above, real), endings)
        elif entry.suffix.lower() in endings and not _is_special(entry):
            yield entry


def _is_special(entry: Path) -> bool:
    """A pipe, socket or device, also behind a link: reading it might never end."""
    return os.path.exists(entry) and not os.path.isfile(entry)  # noqa: PTH110, PTH113 - as above


def sample_id(dataset: Media | ConditioningDataset, root: Path, path: Path) -> str:
    """`dataset/relative path with its extension`; bytes that are not UTF-8 are written as `\\xNN`."""
    relative = path.relative_to(root).as_posix()
    printable = os.fsencode(relative).decode("utf-8", "backslashreplace")
    return f"{dataset.id}/{printable}"
