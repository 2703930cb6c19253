"""Captions from a table with a column of file names: Parquet, JSON lines, or a JSON array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ltxcore.config.dataset_blocks import ParquetSettings
from ltxcore.media.caption_names import composed, plain
from ltxcore.media.dataset_files import Bounds, check_inside, read_inside
from ltxcore.media.errors import MediaError
from ltxcore.store.fingerprint import FileIdentity

Texts = tuple[str, ...]
JSON = (".jsonl", ".json")
MOST_BYTES = 1 << 30
"""A table is held in memory."""
_DRIVE = re.compile(r"[A-Za-z]:")


class Found(NamedTuple):
    """The captions of a row."""

    texts: Texts
    note: str = ""
    """What a person should know of how the row was found."""


class _Row(NamedTuple):
    written: str
    parts: tuple[str, ...]
    """The path that the row names, without its beginning at a drive or `/`."""
    absolute: bool
    texts: Texts


class _Fit(NamedTuple):
    """How well a row matches a clip; the best match wins."""

    exact: bool
    with_extension: bool
    common: int
    """Parts of the path, from its end, that row and clip have in common."""


def from_table(settings: ParquetSettings, path: Path, bounds: Bounds) -> Found:
    """The captions of one clip.

    A row fits whose file name is the clip's path or its end. An absolute path, as another machine wrote it,
    fits too where it ends with the clip's path inside its dataset. Both kinds of slashes count, and names are
    compared as a person reads them: first with, then without regard to letter case, which is noted.
    `identifier_includes_extension` says that file names have extensions, or that none has.

    Raises:
        MediaError: no row or more than one fits, its caption is empty or no text, or the table cannot be
            read.
    """
    file = Path(settings.path)
    if file.is_relative_to(bounds.root.resolve()):
        try:
            check_inside(file, bounds)
        except MediaError as error:
            raise MediaError(f"its table of captions {file.name} {error}") from error
    try:
        identity = FileIdentity.of(file)
    except OSError as error:
        raise MediaError(f"its table of captions {file} cannot be read: {error.strerror}") from error
    rows = _rows(settings, identity)
    inside = len(path.relative_to(bounds.root).parts) if path.is_relative_to(bounds.root) else 1
    known = settings.identifier_includes_extension
    best: list[_Row] = []
    how: _Fit | None = None
    for with_extension in {None: (True, False), True: (True,), False: (False,)}[known]:
        clip = _parts(path if with_extension else path.with_suffix(""))
        for row in rows.get(plain(clip[-1]), ()):
            fit = _fit(row, clip, inside, with_extension)
            if fit is not None and _is_of_another(
                row, inside, bounds.root, "" if with_extension else path.suffix
            ):
                fit = None
            if fit is not None and (how is None or fit > how):
                best, how = [row], fit
            elif fit is not None and fit == how:
                best.append(row)
    if how is None:
        looked_for = {None: f"{path.name!r} or {path.stem!r}", True: repr(path.name), False: repr(path.stem)}
        because = "" if known is None else f" (identifier_includes_extension is {str(known).lower()})"
        raise MediaError(
            f"has no caption: no {settings.filename_column} in {file.name} is {looked_for[known]}{because}"
        )
    return _only(best, how, file)


def _only(rows: Sequence[_Row], how: _Fit, file: Path) -> Found:
    row, *others = rows
    if others:
        raise MediaError(f"has {len(rows)} rows {row.written!r} in {file.name}; keep one of them")
    where = f"its caption in {file.name} (row {row.written!r})"
    if not row.texts:
        raise MediaError(f"{where} is empty")
    if any("\0" in text for text in row.texts):
        raise MediaError(f"{where} holds zero bytes: it is not text")
    return Found(row.texts, "" if how.exact else f"{where} is of another letter case")


def _fit(row: _Row, clip: tuple[str, ...], inside: int, with_extension: bool) -> _Fit | None:
    """None where the row is another file's.

    Args:
        inside: how many of the clip's parts are its path inside the dataset.
    """
    same, alike = _common(row.parts, clip, composed), _common(row.parts, clip, plain)
    # A path from the top is the end of no other; what its dataset is called elsewhere does not matter.
    least = inside if row.absolute else len(row.parts)
    if alike < least:
        return None
    exact = same >= least
    return _Fit(exact, with_extension, same if exact else alike)


def _is_of_another(row: _Row, inside: int, root: Path, suffix: str) -> bool:
    """Whether a path from the top means a file deeper in the dataset: `/old/set/b/one.mp4` is b/one.mp4."""
    deeper = range(inside + 1, len(row.parts)) if row.absolute else ()
    return any(root.joinpath(*row.parts[-count:-1], row.parts[-1] + suffix).exists() for count in deeper)


def _common(one: Sequence[str], other: Sequence[str], written: Any) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if written(a) != written(b):
            break
        count += 1
    return count


def _parts(path: Path) -> tuple[str, ...]:
    return path.parts[1:] if path.is_absolute() else path.parts


@lru_cache(maxsize=16)
def _rows(settings: ParquetSettings, identity: FileIdentity) -> dict[str, list[_Row]]:
    """The rows by the plain form of their last part; `identity` makes a changed table another one."""
    import pyarrow as pa

    file = Path(settings.path)
    fallback = settings.fallback_caption_column
    columns = [settings.filename_column, settings.caption_column, *([fallback] if fallback else [])]
    try:
        lines = file.suffix.lower() in JSON
        table = _read_json(file, columns) if lines else _read_parquet(file, columns)
    except MediaError as error:
        raise MediaError(f"its table of captions {file.name} {error}") from error
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise MediaError(f"its table of captions {file.name} cannot be read: {error}") from error
    rows: dict[str, list[_Row]] = {}
    for name, caption, *spare in table:
        row = _row(str(name), _texts(caption) or _texts(spare[0] if spare else None))
        if row.parts:
            rows.setdefault(plain(row.parts[-1]), []).append(row)
    return rows


def _row(written: str, texts: Texts) -> _Row:
    path = written.strip().removeprefix("file://").replace("\\", "/")
    drive = _DRIVE.match(path)
    parts = tuple(part for part in path[drive.end() if drive else 0 :].split("/") if part not in ("", "."))
    return _Row(written, parts, path.startswith("/") or drive is not None, texts)


def _read_parquet(file: Path, columns: list[str]) -> Iterable[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    with file.open("rb") as opened:
        if file.stat().st_size > MOST_BYTES:
            raise MediaError(f"is too large: {MOST_BYTES} bytes are the most that is read")
        whole = pq.ParquetFile(opened)
        _check_columns(columns, whole.schema_arrow.names)
        table = whole.read(columns=columns).to_pydict()
    return zip(*(table[column] for column in columns), strict=True)


def _read_json(file: Path, columns: list[str]) -> Iterable[tuple[Any, ...]]:
    """One object a line, or an array of objects."""
    text = read_inside(file, Bounds(file.parent, follow_links=True), MOST_BYTES).decode("utf-8-sig")
    whole = text.lstrip().startswith("[")
    rows = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise MediaError(f"cannot be read: its entry {number} is not an object with names and values")
    names = list(dict.fromkeys(name for row in rows for name in row))
    _check_columns(columns, names)
    return [tuple(row.get(column) for column in columns) for row in rows]


def _check_columns(wanted: Iterable[str], known: Sequence[str]) -> None:
    for column in wanted:
        if column not in known:
            raise MediaError(f"has no column {column!r}; it has {', '.join(known)}")


def _texts(value: Any) -> Texts:
    values = value if isinstance(value, list) else [value]
    texts = (str(item).replace("\ufeff", "").strip() for item in values if item is not None)
    return tuple(text for text in texts if text)
