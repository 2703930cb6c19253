"""The files of a directory that are for its dataset, and the captions in it that belong to none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ltxcore.config.dataset_kinds import AudioDataset, ConditioningDataset, ImageDataset, Media

EXTENSIONS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpeg", ".mpg", ".gif"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
SOUNDS = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"})
WITH_SOUND = SOUNDS | (EXTENSIONS - {".gif"})
MEDIA = EXTENSIONS | IMAGES | SOUNDS
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
    """Caption files beside which there is no video, picture or sound of their name.

    Only names are read, so that this costs little; directories behind links are not looked into.
    """
    skipped = {str(path.resolve()) for path in skip}
    strays = []
    for directory, folders, names in os.walk(root.resolve()):
        folders[:] = [n for n in folders if not n.startswith(".") and f"{directory}/{n}" not in skipped]
        media = {name for name in names if os.path.splitext(name)[1].lower() in MEDIA}  # noqa: PTH122 - speed
        owners = media | {name.rpartition(".")[0] for name in media}
        strays += [
            root / Path(directory, name).relative_to(root.resolve())
            for name in names
            if name.lower().endswith(CAPTION)
            and not name.startswith(".")
            and name[: -len(CAPTION)] not in owners
        ]
    return sorted(strays)


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
