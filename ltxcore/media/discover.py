"""The files of a directory that its dataset takes, and those that it does not take."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ltxcore.config.dataset_kinds import AudioDataset, ConditioningDataset, ImageDataset, Media
from ltxcore.media.caption_names import CAPTION, plain
from ltxcore.media.dataset_files import LINKS, Bounds, check_inside
from ltxcore.media.errors import MediaError, cannot_be_read
from ltxcore.media.sniff import Content, Kind, content_of
from ltxcore.store.printable import printable_name

BY_ENDING: dict[str, Kind] = {
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpeg", ".mpg", ".gif"), "video"),
    **dict.fromkeys((".ts", ".mts", ".m2ts", ".vob", ".wmv", ".asf", ".flv", ".ogv"), "video"),
    **dict.fromkeys((".3gp", ".3g2", ".mxf"), "video"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"), "picture"),
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"), "sound"),
    **dict.fromkeys((".oga", ".m4b", ".mka", ".wma", ".aif", ".aiff"), "sound"),
}
"""What an ending promises. It saves a look into the file and is no gate: other files are asked themselves."""
SOUNDLESS = ".gif"
NAMES: dict[Kind, tuple[str, str]] = {
    "picture": ("a picture", "image"),
    "sound": ("a sound", "audio"),
    "video": ("a video", "video"),
}
SIDECARS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "readme", "license", "licence", "notice"})
SIDECAR_ENDINGS = frozenset({".md", ".xmp", ".aae", ".thm", ".lrv"})
"""What cameras, systems and people lay beside media files: never media themselves."""


class Entry(NamedTuple):
    """Something in a dataset's directory."""

    path: Path
    trouble: str = ""
    """Why it cannot be a sample whatever it holds; empty for a file, and for a link to nothing."""


def kinds_of(dataset: Media | ConditioningDataset) -> frozenset[Kind]:
    """The kinds of files that a dataset takes. Containers may have sound only, so an audio dataset takes them
    too."""
    if isinstance(dataset, ImageDataset):
        return frozenset({"picture"})
    if isinstance(dataset, ConditioningDataset):
        return frozenset({"sound", "video"} if dataset.holds_sounds else {"picture", "video"})
    return frozenset({"sound", "video"}) if isinstance(dataset, AudioDataset) else frozenset({"video"})


def read_as(path: Path) -> Kind | None:
    """The kind of a file: by its extension, or else by its content."""
    return BY_ENDING.get(path.suffix.lower()) or content_as_read(path).kind


def content_as_read(path: Path) -> Content:
    """The kind of a file's content; for containers of either kind, the extension decides between sound and
    video."""
    try:
        content = content_of(path)
    except OSError:
        return Content(None)
    promised = BY_ENDING.get(path.suffix.lower())
    either = "sound" in (promised, content.kind) and "video" in (promised, content.kind)
    return content._replace(kind=promised) if either else content


def list_files(
    dataset: Media | ConditioningDataset, bounds: Bounds, skip: tuple[Path, ...] = ()
) -> list[Path]:
    """Everything under the root that must end as a sample of the dataset or as a rejection, in order.

    That is: files, and links to files or to nothing, whose ending or content is for the dataset; and
    directories that cannot be read, which `probe` rejects. Hidden names and the directories in `skip` (the
    workspace) are passed over.

    Raises:
        OSError: the root itself cannot be read.
    """
    return [entry.path for entry in entries(bounds, skip) if _is_for(dataset, bounds, entry)]


def _is_for(dataset: Media | ConditioningDataset, bounds: Bounds, entry: Entry) -> bool:
    path = entry.path
    if entry.trouble:
        return os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - never raise
    ending = path.suffix.lower()
    if lies_beside_media(path) or (isinstance(dataset, AudioDataset) and ending == SOUNDLESS):
        return False
    kinds = kinds_of(dataset)
    if BY_ENDING.get(ending) in kinds:
        return True
    try:
        check_inside(path, bounds)
    except MediaError:
        return False
    return content_as_read(path).kind in kinds


def lies_beside_media(path: Path) -> bool:
    """Whether a file is a caption, or one that systems and cameras put beside media files."""
    ending = path.suffix.lower()
    return ending == CAPTION or ending in SIDECAR_ENDINGS or path.name.lower() in SIDECARS


def captions_without_a_file(bounds: Bounds, skip: tuple[Path, ...] = ()) -> list[Path]:
    """Caption files beside which there is no other file of their name, as `find_caption` would look."""
    captions: list[Path] = []
    owners: set[tuple[Path, str]] = set()
    for path, _ in entries(bounds, skip):
        if path.suffix.lower() == CAPTION:
            captions.append(path)
        elif not lies_beside_media(path):
            owners |= {(path.parent, plain(path.name)), (path.parent, plain(path.stem))}
    return [path for path in captions if (path.parent, plain(path.stem)) not in owners]


def why_not_taken(entry: Entry, dataset: Media | ConditioningDataset, bounds: Bounds) -> str:
    """Why no dataset takes a file, for the report."""
    if entry.trouble:
        return entry.trouble
    try:
        check_inside(entry.path, bounds)
    except MediaError as reason:
        return str(reason)
    if not os.path.exists(entry.path):  # noqa: PTH110 - Path.exists raises where it cannot be searched
        return "is a link to a file that is not there"
    content = content_as_read(entry.path)
    if content.kind is None:
        kind_name = content.name or "of a kind that nobody here knows"
        said = any(word in kind_name for word in ("never read", "convert", "empty", "zeros", "git lfs"))
        return f"is {kind_name}" if said else f"is {kind_name}; it is not read"
    kind, dataset_type = NAMES[content.kind]
    return (
        f"is {kind}, and `{dataset.id}` is a dataset of dataset_type {dataset.dataset_type}; to train on it "
        f"as well, add one of dataset_type {dataset_type} with this directory"
    )


def entries(bounds: Bounds, skip: tuple[Path, ...] = ()) -> list[Entry]:
    """Everything under the root that is not hidden, in the order of relative paths.

    Directories behind links are looked into where links may be followed there, but never back into a
    directory that holds them.

    Raises:
        OSError: the root itself cannot be read.
    """
    root, skipped = bounds.root, {path.resolve() for path in skip}
    os.scandir(root).close()
    top = root.resolve()

    def may_follow(real: Path) -> bool:
        return bounds.follow_links or bounds.home_of(real) is not None

    found = list(_walk(root, skipped, (top,), may_follow))
    return sorted(found, key=lambda entry: entry.path.relative_to(root).as_posix())


def _walk(
    directory: Path, skipped: set[Path], above: tuple[Path, ...], may_follow: Callable[[Path], bool]
) -> Iterator[Entry]:
    try:
        with os.scandir(directory) as listed:
            inside = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(directory, str(cannot_be_read(error)))
        return
    for entry in inside:
        if entry.name.startswith("."):
            continue
        path = directory / entry.name
        try:
            is_directory = entry.is_dir()
        except OSError:
            is_directory = False
        if not is_directory:
            yield Entry(path, _special(path))
            continue
        real = path.resolve() if entry.is_symlink() else above[-1] / entry.name
        if real in above or real in skipped:
            continue
        if may_follow(real):
            yield from _walk(path, skipped, (*above, real), may_follow)
        else:
            yield Entry(path, f"is a link to a directory outside the datasets' own; {LINKS}")


def _special(path: Path) -> str:
    """Of a pipe, socket or device, also behind a link: reading it might never end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as fast as can be
    except OSError:
        return ""
    return "" if stat.S_ISREG(mode) else "is not a regular file"


def sample_id(dataset: Media | ConditioningDataset, root: Path, path: Path) -> str:
    """`dataset/relative path with its extension`; control characters and bytes not of UTF-8 as `\\xNN`."""
    return f"{dataset.id}/{printable_name(path.relative_to(root).as_posix())}"


def recorded_path(root: Path, path: Path) -> str:
    """The relative path as a record can hold it: bytes not of UTF-8 are `\\xNN`, all else stays as it is."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
