"""Text features in Arrow IPC files: rows of their own length, each file whole or absent, mapped on read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ltxcore.store.blobs import Blobs
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.index import Index, Record

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


class TextLost(RuntimeError):
    """The bytes of a committed caption are gone or changed."""


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


class TextStore:
    """Captions by key. Writing needs the caller to hold the writer's lock."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.index = Index(blobs, "text/index")
        self._tables: dict[str, pa.Table] = {}

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys that are not committed, or whose file is gone."""
        present: dict[str, bool] = {}
        lost = []
        for key in keys:
            record = self.index.get(key)
            if record is not None and record["file"] not in present:
                present[record["file"]] = self._blobs.exists(record["file"])
            if record is None or not present[record["file"]]:
                lost.append(key)
        return lost

    def put(self, rows: Sequence[Embedded]) -> None:
        """Write one Arrow file of captions and then commit them together."""
        if not rows:
            return
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
        name = f"text/features/{fingerprint([r.key for r in rows])[:24]}.arrow"
        self._blobs.write(name, sink.getvalue())
        self.index.commit({row.key: _record(row, name, number) for number, row in enumerate(rows)})

    def read(self, key: str) -> Embedded:
        """The features of a committed caption.

        Raises:
            KeyError: the key is not committed.
            TextLost: its file is gone or is not what was written.
        """
        record = self.index[key]
        table = self._table(record["file"])
        at = record["row"]
        tokens = table["tokens"][at].as_py()
        video, audio = table["video"][at].as_buffer(), table["audio"][at]
        if hashlib.sha256(video).hexdigest() != record["sha256"]:
            raise TextLost(f"row {at} of {record['file']} in {self._blobs.url} is not what was written")
        return Embedded(
            key=key,
            caption=table["caption"][at].as_py(),
            video=np.frombuffer(video, np.uint16).reshape(tokens, -1),
            audio=None
            if not audio.is_valid
            else np.frombuffer(audio.as_buffer(), np.uint16).reshape(tokens, -1),
            truncated_from=table["truncated_from"][at].as_py(),
        )

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            try:
                source = (
                    pa.memory_map(self._blobs.path(name))
                    if self._blobs.local is not None
                    else pa.BufferReader(self._blobs.read(name))
                )
                self._tables[name] = pa.ipc.open_file(source).read_all()
            except (FileNotFoundError, pa.ArrowInvalid) as error:
                raise TextLost(f"{name} in {self._blobs.url} cannot be read: {error}") from error
        return self._tables[name]


def _record(row: Embedded, name: str, number: int) -> Record:
    return {
        "file": name,
        "row": number,
        "tokens": len(row.video),
        "sha256": hashlib.sha256(row.video.tobytes()).hexdigest(),
    }
