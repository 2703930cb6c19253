"""What the indexes of a store hold: typed records, and their one form in JSON.

A record is read from JSON where its index is read and nowhere else, so that a field that changes its name is
changed for all who ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Generic, TypeVar

from ltxcore.store.fingerprint import FileIdentity

Json = dict[str, Any]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class EncodedLatent:
    """Where the latent of a sample lies."""

    array: str
    row: int
    checksum: str
    inputs: Json
    """What went into the key."""


@dataclass(frozen=True, slots=True)
class StoredWaveform:
    """Where the waveform of a key lies."""

    file: str
    checksum: str
    inputs: Json


CONTENT: Final = "content"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A content that cannot be encoded or decoded, with the reason."""

    error: str
    inputs: Json
    reason: str = ""
    """`content` where working tools said so of a file that was there, whole and unchanged.

    Of others, such as those from before reasons were kept, that is not known: the next run lifts them.
    """

    @property
    def is_verdict(self) -> bool:
        """Whether the quarantine stands; otherwise the content is tried again."""
        return self.reason == CONTENT


@dataclass(frozen=True, slots=True)
class StoredText:
    """Where the features of a caption lie."""

    file: str
    row: int
    tokens: int
    checksum: str
    inputs: Json


@dataclass(frozen=True, slots=True)
class KnownFile:
    """The content that a file had when it was probed."""

    name: str
    identity: FileIdentity
    media_id: str
    """sha256 of the content."""


@dataclass(frozen=True, slots=True)
class KnownContent:
    """The result of probing a content: a probe, or an error."""

    version: str
    """Of the stage that probed it."""
    probe: Json | None
    error: str | None


LatentRecord = EncodedLatent | Quarantined
WaveformRecord = StoredWaveform | Quarantined


class ForeignRecord(ValueError):
    """A record that this version of the store did not write."""


@dataclass(frozen=True)
class Form(Generic[R]):
    """How the records of an index are written: the name of a kind -> its class."""

    kinds: Mapping[str, type[Any]]

    def write(self, record: R) -> Json:
        """The JSON of a record."""
        name = next((name for name, kind in self.kinds.items() if type(record) is kind), None)
        if name is None:
            raise TypeError(
                f"{type(record).__name__} is not a record of this index, which has {list(self.kinds)}"
            )
        values = {field.name: getattr(record, field.name) for field in fields(record)}  # type: ignore[arg-type]
        if isinstance(record, KnownFile):
            values["identity"] = asdict(record.identity)
        return {"kind": name, **values}

    def read(self, data: Json) -> R:
        """The record of a JSON.

        Raises:
            ForeignRecord: it has other fields than a record of this version.
        """
        try:
            values = {name: value for name, value in data.items() if name != "kind"}
            if "identity" in values:
                values["identity"] = FileIdentity(**values["identity"])
            record: R = self.kinds[data["kind"]](**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ForeignRecord(f"a record of another version of the store: {error}") from error
        return record


LATENTS: Final[Form[LatentRecord]] = Form({"encoded": EncodedLatent, "quarantined": Quarantined})
WAVEFORMS: Final[Form[WaveformRecord]] = Form({"stored": StoredWaveform, "quarantined": Quarantined})
TEXTS: Final[Form[StoredText]] = Form({"stored": StoredText})
FILES: Final[Form[KnownFile]] = Form({"file": KnownFile})
CONTENTS: Final[Form[KnownContent]] = Form({"content": KnownContent})

FORMS: Final[Mapping[str, Form[Any]]] = {
    "media/files": FILES,
    "media/probes": CONTENTS,
    "audio/index": WAVEFORMS,
    "text/index": TEXTS,
    "latents/index": LATENTS,
}
"""Folder of an index -> the form of its records."""
