"""The captions of a clip, from the place that its dataset names."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from ltxcore.config.caption_filters import filter_caption
from ltxcore.config.dataset_kinds import MediaDataset
from ltxcore.media.caption_names import caption_names, find_caption
from ltxcore.media.caption_table import from_table
from ltxcore.media.dataset_files import KIB, Bounds, read_inside
from ltxcore.media.errors import AGAIN, MediaError, Undecided

BYTE_ORDER_MARK = "\ufeff"
LINE_END = re.compile(r"\r\n|\r|\n")


class Captions(NamedTuple):
    """The captions of a clip and their notes."""

    texts: tuple[str, ...]
    """At least one, none of them empty."""
    notes: tuple[str, ...] = ()
    """What a person should know of where they were found."""


def read_captions(dataset: MediaDataset, path: Path, bounds: Bounds) -> Captions:
    """All captions of one clip, after `caption_filter_list`.

    Args:
        bounds: what may be opened of the dataset.

    Raises:
        MediaError: the caption is missing, empty, too long or not text, with the file that was expected.
        Undecided: the disk or its server failed.
    """
    found = _unfiltered(dataset, path, bounds)
    if not dataset.caption_filter_list:
        return found
    filtered = (filter_caption(caption, dataset.caption_filter_list) for caption in found.texts)
    left = tuple(caption for caption in filtered if caption)
    if not left:
        raise MediaError("has no caption: caption_filter_list leaves nothing of it")
    return found._replace(texts=left)


def _unfiltered(dataset: MediaDataset, path: Path, bounds: Bounds) -> Captions:
    if dataset.caption_strategy in ("instanceprompt", "instance_prompt"):
        return Captions((_instance_prompt(dataset),))
    if dataset.caption_strategy == "filename":
        found = Captions(_from_name(path))
    elif dataset.parquet is not None and dataset.caption_strategy == "parquet":
        row = from_table(dataset.parquet, path, bounds)
        found = Captions(row.texts, (row.note,) if row.note else ())
    else:
        found = _from_file(dataset, path, bounds)
    if dataset.prepend_instance_prompt:
        prompt = _instance_prompt(dataset)
        return found._replace(texts=tuple(f"{prompt} {caption}" for caption in found.texts))
    return found


def _instance_prompt(dataset: MediaDataset) -> str:
    return (dataset.instance_prompt or "").strip()


def _from_name(path: Path) -> tuple[str, ...]:
    caption = path.stem.replace("_", " ").strip()
    if not caption:
        raise MediaError("has no caption: its name holds no words")
    return (caption,)


def _from_file(dataset: MediaDataset, path: Path, bounds: Bounds) -> Captions:
    file = find_caption(path)
    if file is None:
        own, shared = caption_names(path)
        raise MediaError(f"has no caption: expected {shared} or {own} beside it")
    name = file.path.name
    try:
        content = read_inside(file.path, bounds, dataset.max_caption_kib * KIB, "max_caption_kib")
    except FileNotFoundError:
        raise MediaError(f"its caption {name} is a link to a file that is not there") from None
    except Undecided as error:
        raise Undecided(f"its caption {name} {str(error).removesuffix(f'; {AGAIN}')}") from error
    except MediaError as error:
        raise MediaError(f"its caption {name} {error}") from error
    text = _as_text(content, name)
    lines = [line.strip() for line in LINE_END.split(text)]
    if dataset.disable_multiline_split:
        lines = ["\n".join(lines).strip()]
    captions = tuple(line for line in lines if line)
    if not captions:
        raise MediaError(f"its caption {name} is empty")
    return Captions(captions, (file.note,) if file.note else ())


def _as_text(content: bytes, name: str) -> str:
    """UTF-8, or UTF-16 where the file says so by its first two bytes; without marks of byte order."""
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        message = f"its caption {name} is not {encoding.upper()} (byte {error.start}); save the text as UTF-8"
        raise MediaError(message) from error
    if "\0" in text:
        raise MediaError(
            f"its caption {name} holds zero bytes (the first is character {text.index(chr(0))}): it is no "
            "text, or was not written whole; save the text as UTF-8"
        )
    # Files that were joined have a mark at each of their beginnings.
    return text.replace(BYTE_ORDER_MARK, "")
