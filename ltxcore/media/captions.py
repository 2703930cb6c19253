"""The captions of a clip, from the place that its dataset names."""

from __future__ import annotations

import re
from pathlib import Path

from ltxcore.config.caption_filters import filter_caption
from ltxcore.config.dataset_kinds import MediaDataset
from ltxcore.media.caption_table import from_table
from ltxcore.media.errors import MediaError

LINE_END = re.compile(r"\r\n|\r|\n")


def read_captions(dataset: MediaDataset, path: Path) -> tuple[str, ...]:
    """All captions of one clip, at least one, none of them empty, after `caption_filter_list`.

    Raises:
        MediaError: the caption is missing, empty or not UTF-8, with the file that was expected.
    """
    captions = _unfiltered(dataset, path)
    if not dataset.caption_filter_list:
        return captions
    filtered = (filter_caption(caption, dataset.caption_filter_list) for caption in captions)
    left = tuple(caption for caption in filtered if caption)
    if not left:
        raise MediaError("has no caption: caption_filter_list leaves nothing of it")
    return left


def _unfiltered(dataset: MediaDataset, path: Path) -> tuple[str, ...]:
    if dataset.caption_strategy in ("instanceprompt", "instance_prompt"):
        return (_instance_prompt(dataset),)
    if dataset.caption_strategy == "filename":
        captions = _from_name(path)
    elif dataset.parquet is not None and dataset.caption_strategy == "parquet":
        captions = from_table(dataset.parquet, path)
    else:
        captions = _from_file(dataset, path)
    if dataset.prepend_instance_prompt:
        return tuple(f"{_instance_prompt(dataset)} {caption}" for caption in captions)
    return captions


def _instance_prompt(dataset: MediaDataset) -> str:
    return (dataset.instance_prompt or "").strip()


def _from_name(path: Path) -> tuple[str, ...]:
    caption = path.stem.replace("_", " ").strip()
    if not caption:
        raise MediaError("has no caption: its name holds no words")
    return (caption,)


def caption_files(path: Path) -> tuple[Path, Path]:
    """`clip.mp4.txt`, which wins, so that clip.mp4 and clip.mov can differ; and `clip.txt`."""
    return path.with_name(f"{path.name}.txt"), path.with_suffix(".txt")


def _from_file(dataset: MediaDataset, path: Path) -> tuple[str, ...]:
    own, shared = caption_files(path)
    file = own if own.is_file() else shared
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise MediaError(f"has no caption: expected {shared.name} or {own.name} beside it") from None
    except UnicodeDecodeError as error:
        raise MediaError(
            f"its caption {file.name} is not UTF-8 (byte {error.start}); save the text as UTF-8"
        ) from error
    except OSError as error:
        raise MediaError(f"its caption {file.name} cannot be read: {error.strerror}") from error
    lines = [line.strip() for line in LINE_END.split(text)]
    if dataset.disable_multiline_split:
        lines = ["\n".join(lines).strip()]
    captions = tuple(line for line in lines if line)
    if not captions:
        raise MediaError(f"its caption {file.name} is empty")
    return captions
