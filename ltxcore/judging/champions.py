"""The champions of a workspace: of each model the files under one steady path, and all that came before.

`champions/NAME` is a link to `champions/.NAME/0007`, a version: both LoRA files and `champion.json`. A
version is written beside, compared with its hashes and named in one rename; the link is exchanged in
another. So whoever reads through it, at any instant, finds one whole champion.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from ltxcore.config.base import Strict
from ltxcore.config.promotion_settings import NAME
from ltxcore.store.blobs import make_directory, read_model, sync_directory, write_json
from ltxcore.store.file_hashes import fault_of
from ltxcore.store.locks import exclusive
from ltxcore.store.workspace import Workspace

RECORD: Final = "champion.json"
_UNFINISHED: Final = "unfinished"


class ChampionError(RuntimeError):
    """A champion cannot be read, or not be exchanged; says what to do."""


class NoChampion(ChampionError):
    """There is no such model or version."""


class ChampionMoved(ChampionError):
    """Another process has exchanged the champion meanwhile."""


class Lineage(Strict):
    """What a LoRA was made of."""

    base: str
    """Fingerprint of the transformer."""
    snapshot: str
    """Id of the snapshot."""
    trained_on: tuple[str, ...]
    """sha256 of every media file that it was trained on, also by the LoRA that it goes on from."""
    goes_on_from: str | None = None
    """sha256 of the LoRA file that the training began with."""
    unknown_origin: bool = False
    """Whether it goes on from a LoRA of which nobody here knows what it was trained on."""
    recipe: dict[str, Any]


class Candidate(Strict):
    """A judged LoRA, which may become the champion."""

    training: str
    """Fingerprint of the training."""
    files: dict[str, str]
    """Name -> sha256."""
    verdict: str
    gate: list[dict[str, Any]]
    """The gate's table."""
    lineage: Lineage


class ChampionRecord(Candidate):
    """`champion.json` of a version."""

    model: str
    version: int = Field(ge=1)
    instead_of: int | None
    """The version whose place it took."""
    promoted: str
    """When, in UTC."""
    by: Literal["gate", "hand"]


@dataclass(frozen=True)
class Champion:
    """A version of a model."""

    directory: Path
    record: ChampionRecord

    def file(self, name: str) -> Path:
        """One of its files."""
        return self.directory / name

    def faults(self) -> list[str]:
        """What is wrong with its files, by their hashes."""
        found = (fault_of(self.file(name), sha256) for name, sha256 in self.record.files.items())
        return [str(fault) for fault in found if fault is not None]


class Champions:
    """The versions of one model."""

    def __init__(self, workspace: Workspace, model: str) -> None:
        """Open a model.

        Raises:
            NoChampion: the name cannot be one.
        """
        if not NAME.fullmatch(model):
            raise NoChampion(f"{model!r} is no model's name: letters, digits, `.`, `_` and `-` alone")
        self.model, self.root = model, workspace.champions
        self.link, self.directory = self.root / model, self.root / f".{model}"

    @property
    def current(self) -> Champion | None:
        """The champion, None where there is none yet.

        Raises:
            ChampionError: what is under its name is no champion.
        """
        if not self.link.is_symlink():
            if self.link.exists():
                raise ChampionError(
                    f"{self.link} is no link to a champion; move it away, so that one can be put there"
                )
            return None
        return self._at(self.root / self.link.readlink())

    def version(self, number: int) -> Champion:
        """A version by its number.

        Raises:
            NoChampion: there is none.
            ChampionError: it is damaged.
        """
        directory = self._folder(number)
        if not directory.is_dir():
            known = ", ".join(map(str, self.numbers())) or "none"
            raise NoChampion(f"{self.model} has no version {number}; it has: {known}")
        return self._at(directory)

    def versions(self) -> list[Champion]:
        """All versions, the newest first.

        Raises:
            ChampionError: one is damaged.
        """
        return [self.version(number) for number in sorted(self.numbers(), reverse=True)]

    def opponent(self, training: str) -> Champion | None:
        """Whom a training is measured against: the champion, or, where it is that, the one before it.

        Raises:
            ChampionError: as `current`.
        """
        found = self.current
        while found is not None and found.record.training == training:
            before = found.record.instead_of
            found = None if before is None else self.version(before)
        return found

    def promote(
        self,
        candidate: Candidate,
        source: Path,
        by: Literal["gate", "hand"],
        expected: int | None,
    ) -> Champion:
        """Let a candidate be the champion. Done twice, it is done once.

        Args:
            candidate: its files are read from `source` and compared with their hashes.
            source: the directory of the files.
            by: who decided.
            expected: the version that it was measured against; None: there was none.

        Raises:
            ChampionMoved: another one is the champion by now.
            ChampionError: a file is not what was judged; the champion stays.
        """
        with self._locked(f"promote {candidate.training[:16]}"):
            current = self.current
            if current is not None and current.record.training == candidate.training:
                if not current.faults():
                    return current
                expected = current.record.version
            now = None if current is None else current.record.version
            if now != expected:
                raise ChampionMoved(
                    f"{self.model} was {_named(expected)} when it was measured and is {_named(now)} now; "
                    "start again, to be measured against that one"
                )
            return self._exchange(self._written(candidate, source, by, expected))

    def roll_back(self, to: int | None = None) -> Champion:
        """Let an earlier version be the champion.

        Args:
            to: which; None: the one whose place the champion took.

        Raises:
            NoChampion: there is no such version.
            ChampionError: its files are not what they were; the champion stays.
        """
        with self._locked("rollback"):
            if to is None:
                current = self.current
                if current is None:
                    raise NoChampion(f"{self.model} has no champion to take back")
                if (to := current.record.instead_of) is None:
                    raise NoChampion(
                        f"version {current.record.version} is the first champion of {self.model}"
                    )
            found = self.version(to)
            if faults := found.faults():
                raise ChampionError("\n".join(["the champion stays, since of the other", *faults]))
            return self._exchange(found)

    def _written(
        self, candidate: Candidate, source: Path, by: Literal["gate", "hand"], instead_of: int | None
    ) -> Champion:
        """A new version, whole and under its number, which nothing names yet."""
        unfinished = self.directory / _UNFINISHED
        if unfinished.exists():
            # Of a process that was killed: the lock is ours.
            shutil.rmtree(unfinished)
        make_directory(unfinished)
        for name, sha256 in candidate.files.items():
            _copy(source / name, unfinished / name)
            if (fault := fault_of(unfinished / name, sha256)) is not None:
                shutil.rmtree(unfinished)
                raise ChampionError(
                    f"{source / name} is not what was judged ({fault.fault} in its copy); the champion "
                    "stays. `ltx2 verify --repair` sets it aside, and the next run makes it again"
                )
        number = max(self.numbers(), default=0) + 1
        record = ChampionRecord(
            **candidate.model_dump(),
            model=self.model,
            version=number,
            instead_of=instead_of,
            promoted=datetime.now(UTC).isoformat(timespec="seconds"),
            by=by,
        )
        write_json(unfinished / RECORD, record.model_dump(mode="json"))
        directory = self._folder(number)
        unfinished.rename(directory)
        sync_directory(self.directory)
        return Champion(directory, record)

    def _exchange(self, champion: Champion) -> Champion:
        """Let the steady path lead to a version."""
        fresh = self.directory / "link"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(self.directory.name) / champion.directory.name)
        fresh.replace(self.link)
        sync_directory(self.root)
        return champion

    def _at(self, directory: Path) -> Champion:
        try:
            return Champion(directory, read_model(directory / RECORD, ChampionRecord))
        except FileNotFoundError:
            raise ChampionError(
                f"{self.link} leads to {directory}, which holds no {RECORD}: its files are gone. "
                f"`ltx2 rollback {self.model} --to VERSION` names another champion; `ltx2 models` lists them"
            ) from None

    def _folder(self, number: int) -> Path:
        return self.directory / f"{number:04d}"

    def numbers(self) -> list[int]:
        """The versions, damaged ones too, the oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def _locked(self, purpose: str) -> Any:
        return exclusive(self.directory / "lock", f"{purpose} of {self.model}")


def all_models(workspace: Workspace) -> list[Champions]:
    """The models of a workspace, by name."""
    if not workspace.champions.is_dir():
        return []
    names = sorted(path.name[1:] for path in workspace.champions.iterdir() if path.name.startswith("."))
    return [Champions(workspace, name) for name in names if NAME.fullmatch(name)]


def made_by(workspace: Workspace, sha256: str) -> Lineage | None:
    """The lineage of a LoRA file that is or was a champion; None where it is unknown here."""
    for model in all_models(workspace):
        for champion in model.versions():
            if sha256 in champion.record.files.values():
                return champion.record.lineage
    return None


def _copy(source: Path, target: Path) -> None:
    """Copy a file to the disk itself.

    Raises:
        ChampionError: it is gone.
    """
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise ChampionError(
            f"{source} is gone; the champion stays. The next run of its recipe makes it again"
        ) from None
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _named(version: int | None) -> str:
    return "without a champion" if version is None else f"version {version}"
