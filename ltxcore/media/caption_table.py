"""Captions from a table with a column of file names: Parquet, or JSON lines."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ltxcore.config.dataset_kinds import ParquetSettings
from ltxcore.media.errors import MediaError
from ltxcore.store.fingerprint import stat_key

Texts = tuple[str, ...]
JSON_LINES = (".jsonl", ".json")


def from_table(settings: ParquetSettings, path: Path) -> Texts:
    """The captions of one clip: the row whose file name is its path's end, its name, or its bare stem.

    `identifier_includes_extension` says that file names have extensions, or that none has.

    Raises:
        MediaError: no row or more than one fits, its caption is empty, or the table cannot be read.
    """
    file = Path(settings.path)
    try:
        stat = tuple(stat_key(file))
    except OSError as error:
        raise MediaError(f"its table of captions {file} cannot be read: {error.strerror}") from error
    rows = _rows(settings, stat)
    for end in _ends(path, settings.identifier_includes_extension):
        found = rows.get(end)
        if found is None:
            continue
        if len(found) > 1:
            raise MediaError(f"has {len(found)} rows {end!r} in {file.name}; keep one of them")
        if not found[0]:
            raise MediaError(f"its caption in {file.name} (row {end!r}) is empty")
        return found[0]
    looked_for = {None: f"{path.name!r} or {path.stem!r}", True: repr(path.name), False: repr(path.stem)}
    known = settings.identifier_includes_extension
    because = "" if known is None else f" (identifier_includes_extension is {str(known).lower()})"
    raise MediaError(
        f"has no caption: no {settings.filename_column} in {file.name} is {looked_for[known]}{because}"
    )


def _ends(path: Path, with_extension: bool | None) -> list[str]:
    """`a/b/clip.mp4`, `b/clip.mp4`, `clip.mp4`, then the same without the extension; or one sort alone."""
    parts = path.parts[1:] if path.is_absolute() else path.parts
    ends = ["/".join(parts[first:]) for first in range(len(parts))]
    bare = [end.removesuffix(path.suffix) for end in ends]
    return {None: [*ends, *bare], True: ends, False: bare}[with_extension]


@lru_cache(maxsize=16)
def _rows(settings: ParquetSettings, stat: tuple[int, ...]) -> dict[str, list[Texts]]:
    """File name -> the captions of each row that has it; `stat` makes a changed table another one."""
    import pyarrow as pa
    import pyarrow.json as pj
    import pyarrow.parquet as pq

    fallback = settings.fallback_caption_column
    columns = [settings.filename_column, settings.caption_column, *([fallback] if fallback else [])]
    file = Path(settings.path)
    try:
        lines = pj.read_json(file) if file.suffix.lower() in JSON_LINES else None
        known = pq.read_schema(file).names if lines is None else lines.column_names
        missing = [column for column in columns if column not in known]
        if missing:
            raise MediaError(
                f"its table of captions {file.name} has no column {missing[0]!r}; it has {', '.join(known)}"
            )
        found = pq.read_table(file, columns=columns) if lines is None else lines.select(columns)
        table = found.to_pydict()
    except (OSError, pa.ArrowInvalid) as error:
        raise MediaError(f"its table of captions {file.name} cannot be read: {error}") from error
    rows: dict[str, list[Texts]] = {}
    spare = table[fallback] if fallback else [None] * len(table[settings.filename_column])
    for name, caption, other in zip(
        table[settings.filename_column], table[settings.caption_column], spare, strict=True
    ):
        rows.setdefault(str(name).removeprefix("./"), []).append(_texts(caption) or _texts(other))
    return rows


def _texts(value: Any) -> Texts:
    values = value if isinstance(value, list) else [value]
    return tuple(text for item in values if item is not None and (text := str(item).strip()))
