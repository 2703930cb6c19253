"""Known facts of files, and probing of unknown files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ltxcore.config.base import Strict
from ltxcore.media.dataset_files import check_inside
from ltxcore.media.errors import MediaError, Undecided, cannot_be_read
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.media.pictures import probe_picture
from ltxcore.media.probe import VideoStream, probe, read_headers
from ltxcore.media.sound_files import probe_sound
from ltxcore.media.streams import check_file
from ltxcore.media.tool_health import require_healthy_tools
from ltxcore.media.wanted import Wanted
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.stages.probe_media.media_files import MediaFile, readable_identity
from ltxcore.store.fingerprint import fingerprint, hash_file
from ltxcore.store.index import Index
from ltxcore.store.records import CONTENTS, FILES, KnownContent, KnownFile
from ltxcore.store.snapshot import Kind, Sample

logger = logging.getLogger(__name__)

# ffprobe and the loudness pass are processes of their own; a few at once keep the disk busy.
PROBES_AT_ONCE = processes_at_once()
MEDIA_ID_DIGITS = 64
PROBES: dict[Kind, Callable[[Path, Wanted], Strict]] = {
    "video": probe,
    "image": probe_picture,
    "audio": probe_sound,
}


@dataclass(frozen=True)
class Learnt:
    """The result of probing a file."""

    media_id: str
    content: KnownContent
    is_verdict: bool = True
    """False where nothing was learnt of the content, so that another run tries it again."""


class Memo:
    """Known facts of files: content hash by path and identity, probe by content.

    Probing needs the caller to hold the writer's lock `media`.
    """

    def __init__(self, ctx: Context) -> None:
        self.files = Index(ctx.store, "media/files", FILES)
        self.probes = Index(ctx.store, "media/probes", CONTENTS)
        self._looked_at: dict[str, Learnt] = {}
        """What holds for this process alone."""

    @property
    def undecided(self) -> int:
        """Files that could not be judged in this process: another run tries them again."""
        return sum(not learnt.is_verdict for learnt in self._looked_at.values())

    def rates(self, samples: Iterable[Sample]) -> dict[str, float]:
        """Media id -> frames a second of the file, as most of its frames follow each other; of videos."""
        wanted = {sample.media_id for sample in samples if sample.kind == "video"}
        found = {}
        for key, content in self.probes.items():
            media_id = key[:MEDIA_ID_DIGITS]
            if media_id not in wanted or content.probe is None or content.version != PROBE.version:
                continue
            if "video" in content.probe:
                found[media_id] = VideoStream.model_validate(content.probe["video"]).usual_fps
        return found

    def unknown(self, files: Sequence[MediaFile]) -> list[MediaFile]:
        """The files that have to be probed."""
        return [file for file in files if self.look_up(file) is None]

    def look_up(self, file: MediaFile) -> tuple[str, KnownContent] | None:
        """Media id and what is known of the content of a file that has not changed since it was probed."""
        if file.memo_key in self._looked_at:
            learnt = self._looked_at[file.memo_key]
            return learnt.media_id, learnt.content
        try:
            check_inside(file.path, file.bounds)
        except MediaError as reason:
            # Of where the file is, not of what it holds: never remembered.
            learnt = _failed(f"unreadable-{file.memo_key}", reason)
            return learnt.media_id, learnt.content
        known = self.files.get(file.memo_key)
        if known is None or known.identity != readable_identity(file.path):
            return None
        content = self.probes.get(probe_key(known.media_id, file.kind, file.wanted))
        return None if content is None or content.version != PROBE.version else (known.media_id, content)

    def require(self, file: MediaFile) -> tuple[str, object]:
        """Media id and probe of a file.

        Raises:
            MediaError: it could not be probed, and why.
        """
        known = self.look_up(file)
        if known is None:
            raise MediaError("changed while it was being looked at; run probe-media again")
        media_id, content = known
        if content.error is not None:
            raise MediaError(content.error)
        return media_id, content.probe

    def probe_batch(self, files: Sequence[MediaFile], on_file: Callable[[], None]) -> int:
        """Hash and probe a batch of files and commit what was learnt. Returns how many were probed."""
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            before = {file.memo_key: readable_identity(file.path) for file in files}
            files_known: dict[str, KnownFile] = {}
            probed: dict[str, KnownContent] = {}
            for file, learnt in zip(files, pool.map(self._learn, files), strict=True):
                on_file()
                identity = before[file.memo_key]
                if learnt.is_verdict and identity is not None and readable_identity(file.path) != identity:
                    learnt = _failed(learnt.media_id, Undecided("was changed while it was looked at"))
                if not learnt.is_verdict:
                    logger.warning("%s: %s", file.id, learnt.content.error)
                if not learnt.is_verdict or identity is None:
                    self._looked_at[file.memo_key] = learnt
                    continue
                files_known[file.memo_key] = KnownFile(file.name, identity, learnt.media_id)
                probed[probe_key(learnt.media_id, file.kind, file.wanted)] = learnt.content
        self.probes.commit(probed)
        self.files.commit(files_known)
        return len(files)

    def read_header(self, file: MediaFile) -> None:
        """Know a file by its header, in this process alone: a video is neither hashed nor decoded.

        That its frames decode, and how it sounds and looks, is for probe-media to find out.
        """
        stands_for = fingerprint({"header of": file.memo_key})
        try:
            check_inside(file.path, file.bounds)
            read = read_headers if file.kind == "video" else PROBES[file.kind]
            found = read(file.path, file.wanted)
        except MediaError as reason:
            self._looked_at[file.memo_key] = _failed(stands_for, reason)
            return
        content = KnownContent(PROBE.version, found.model_dump(mode="json"), None)
        self._looked_at[file.memo_key] = Learnt(stands_for, content, is_verdict=False)

    def look_at(self, file: MediaFile) -> None:
        """Know a file as it is now, in this process alone: nothing is committed."""
        self._looked_at[file.memo_key] = self._learn(file)

    def _verdict(self, file: MediaFile, media_id: str, error: MediaError) -> Learnt:
        """An error is a verdict only on a file that can be read to its end and is still what was hashed."""
        if not isinstance(error, Undecided):
            _require_tools(file)
        try:
            same = isinstance(error, Undecided) or hash_file(file.path) == media_id
        except OSError as trouble:
            return _failed(media_id, Undecided(f"cannot be read now: {trouble.strerror or trouble}"))
        if not same:
            error = Undecided(f"was changed while it was looked at ({error})")
        return _failed(media_id, error)

    def _learn(self, file: MediaFile) -> Learnt:
        try:
            str(file.path).encode()
            check_inside(file.path, file.bounds)
            media_id = hash_file(file.path)
        except MediaError as reason:
            return _failed(f"unreadable-{file.memo_key}", reason)
        except (OSError, UnicodeEncodeError) as error:
            # Of the path, not of the content: another file of this content may be good.
            return _failed(f"unreadable-{file.memo_key}", _why(file.path, error))
        known = self.probes.get(probe_key(media_id, file.kind, file.wanted))
        if known is not None and known.version == PROBE.version:
            return Learnt(media_id, known)
        try:
            found = PROBES[file.kind](file.path, file.wanted)
        except MediaError as error:
            return self._verdict(file, media_id, error)
        _require_tools(file)
        return Learnt(media_id, KnownContent(PROBE.version, found.model_dump(mode="json"), None))


def probe_key(media_id: str, kind: Kind, wanted: Wanted) -> str:
    """Under what a probe is kept: one content may be a clip in one dataset and a sound in another."""
    return f"{media_id}{'' if kind == 'video' else f'-{kind}'}{wanted.key}"


def _require_tools(file: MediaFile) -> None:
    """Believe what was learnt of a file only from tools that work: some end well and write nothing.

    Raises:
        ToolSick, ToolMissing: they do not.
    """
    if file.kind != "image":
        require_healthy_tools()


def _failed(media_id: str, error: MediaError) -> Learnt:
    """What was learnt of a file that gave no probe."""
    content = KnownContent(PROBE.version, None, str(error))
    return Learnt(media_id, content, is_verdict=not isinstance(error, Undecided))


def _why(path: Path, error: OSError | UnicodeEncodeError) -> MediaError:
    """Why a path without content cannot be used; `check_file` knows broken links and directories better.

    Raises:
        OSError: this process is out of files or memory, which is no fault of the file.
    """
    try:
        check_file(path)
    except MediaError as reason:
        return reason
    return cannot_be_read(error) if isinstance(error, OSError) else MediaError(f"cannot be read: {error}")
