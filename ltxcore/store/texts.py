"""Text features in Arrow IPC files: rows of their own length, each file whole or absent, mapped on read.

No file's name is ever used twice.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ltxcore.store.blobs import Blobs
from ltxcore.store.checksum import checksum
from ltxcore.store.index import Index
from ltxcore.store.present import present
from ltxcore.store.records import TEXTS, StoredText

Bits = np.ndarray[Any, np.dtype[np.uint16]]
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("caption", pa.string()),
        ("tokens", pa.int32()),
        ("truncated_from", pa.int32()),
        ("video", pa.large_binary()),
        ("audio", pa.large_binary()),
    ],
    # Arrow has no bfloat16; the bytes are its bits, [tokens, width] in C order.
    metadata={"dtype": "bfloat16"},
)


ARROW_END: Final = b"ARROW1"
"""The last bytes of every Arrow IPC file."""


class TextLost(RuntimeError):
    """The bytes of a committed caption are missing or damaged."""


@dataclass(frozen=True)
class Embedded:
    """The features of one caption as bf16 bits: real tokens only, [tokens, width].

    `audio` is None where the model's version shares one feature between both modalities.
    `truncated_from` is the caption's own token count where it was cut, else 0.
    """

    key: str
    caption: str
    video: Bits
    audio: Bits | None
    truncated_from: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)
    """What went into the key beside the caption, which is stored with the features."""

    @property
    def payload(self) -> bytes:
        """All that the checksum of a row covers."""
        audio = b"" if self.audio is None else self.audio.tobytes()
        return self.video.tobytes() + audio + self.caption.encode()


class TextStore:
    """Captions by key. Writing needs the caller to hold the writer's lock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.index = Index(blobs, "text/index", TEXTS)
        self._tables: dict[str, pa.Table] = {}

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are not committed, or whose file is gone, empty or cut short."""
        wanted = list(keys)
        files = {key: record.file for key in wanted if (record := self.index.get(key)) is not None}
        there = present(self._blobs, set(files.values()), self._is_cut)
        return [key for key in wanted if files.get(key) not in there]

    def _is_cut(self, name: str, size: int) -> bool:
        """Whether a file lacks its end. An object store takes objects only whole."""
        if self._blobs.local is None:
            return False
        with Path(self._blobs.path(name)).open("rb") as file:
            file.seek(max(0, size - len(ARROW_END)))
            return file.read() != ARROW_END

    def put(self, rows: Sequence[Embedded]) -> None:
        """Write one Arrow file of captions and then commit them together.

        Raises:
            DiskFull, OSError: none of the captions is committed then.
            Overtaken: another process has written meanwhile, or deleted what was not committed.
        """
        if rows:
            self.index.refresh()
            after = self.index.newest
            self.index.commit(self.write_file(rows), after)

    def write_file(self, rows: Sequence[Embedded]) -> dict[str, StoredText]:
        """Write one Arrow file of captions; they exist once the records that this returns are committed."""
        table = pa.table(
            {
                "key": [r.key for r in rows],
                "caption": [r.caption for r in rows],
                "tokens": [len(r.video) for r in rows],
                "truncated_from": [r.truncated_from for r in rows],
                "video": [r.video.tobytes() for r in rows],
                "audio": [None if r.audio is None else r.audio.tobytes() for r in rows],
            },
            schema=SCHEMA,
        )
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(table)
        name = f"text/features/{uuid.uuid4().hex}.arrow"
        self._blobs.create(name, sink.getvalue())
        return {row.key: _record(row, name, number) for number, row in enumerate(rows)}

    def read(self, key: str) -> Embedded:
        """The features of a committed caption.

        Raises:
            KeyError: the key is not committed.
            TextLost: its file is gone or is not what was written.
        """
        try:
            return self._intact(key)
        except TextLost:
            # `ltx2 compact` may have moved it since the index was read.
            self.index.refresh()
            return self._intact(key)

    def row_of(self, key: str) -> Embedded:
        """What is stored for a committed caption, whether or not it is what was written.

        Raises:
            TextLost: its file is gone, or is no Arrow file, or has no such row.
        """
        record = self.index[key]
        table, at, tokens = self._table(record.file), record.row, record.tokens
        # The checksum does not cover the number, which shapes the features.
        if at >= len(table) or table["tokens"][at].as_py() != tokens:
            raise TextLost(f"{record.file} in {self._blobs.url} has no row {at} of {tokens} tokens")
        audio = table["audio"][at]
        return Embedded(
            key=key,
            caption=table["caption"][at].as_py(),
            video=_bits(table["video"][at].as_buffer(), tokens),
            audio=_bits(audio.as_buffer(), tokens) if audio.is_valid else None,
            truncated_from=table["truncated_from"][at].as_py(),
            inputs=record.inputs,
        )

    def rows_in(self, file: str) -> int | None:
        """How many rows an Arrow file holds, used or not; None where it cannot be read."""
        try:
            return len(self._table(file))
        except TextLost:
            return None

    def _intact(self, key: str) -> Embedded:
        record, row = self.index[key], self.row_of(key)
        if checksum(row.payload) != record.checksum:
            raise TextLost(
                f"row {record.row} of {record.file} in {self._blobs.url} is not what was written; "
                "`ltx2 verify --repair` marks it, and embed-text then embeds it again"
            )
        return row

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            try:
                source = (
                    pa.memory_map(self._blobs.path(name))
                    if self._blobs.local is not None
                    else pa.BufferReader(self._blobs.read(name))
                )
            except FileNotFoundError as error:
                raise TextLost(f"{name} is gone from {self._blobs.url}") from error
            try:
                self._tables[name] = _whole(pa.ipc.open_file(source).read_all())
            except (OSError, pa.ArrowException) as error:
                # The file has been opened: what pyarrow calls an OSError is its content.
                raise TextLost(f"{name} in {self._blobs.url} cannot be read: {error}") from error
        return self._tables[name]


def _whole(table: pa.Table) -> pa.Table:
    """A table of which every value can be looked at: a changed offset would lead out of the file.

    Raises:
        pa.ArrowInvalid: it is not what a store writes.
    """
    if table.schema != SCHEMA:
        raise pa.ArrowInvalid("it has other columns than a store writes")
    table.validate(full=True)
    return table


def _record(row: Embedded, name: str, number: int) -> StoredText:
    return StoredText(name, number, len(row.video), checksum(row.payload), row.inputs)


def _bits(buffer: pa.Buffer, tokens: int) -> Bits:
    try:
        return np.frombuffer(buffer, np.uint16).reshape(tokens, -1)
    except ValueError as error:
        raise TextLost(f"{buffer.size} bytes are not the features of {tokens} tokens") from error
