"""judge-lora: base, champion and challenger on the held-out clips, the verdict, its page and what follows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ltxcore.config.lora_files import DIFFUSERS_FILE
from ltxcore.judging.champions import Candidate, Champion, ChampionError, Champions
from ltxcore.judging.frozen_clips import FrozenClip, FrozenClips
from ltxcore.judging.gate import Gate, judge, nothing_to_compare
from ltxcore.judging.paired import METRICS, Losses, differences
from ltxcore.judging.words import sentence
from ltxcore.memory.arrangement import Arrangement
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import JUDGE
from ltxcore.pipeline.base.outputs import require_whole
from ltxcore.pipeline.base.stamp import Outcome, output_file
from ltxcore.pipeline.base.work import Assignment, Place, Result, Work, loaded
from ltxcore.stages.judge_lora.challenger import (
    challenger_of,
    judged_clips,
    lineage_of,
    opponent_of,
    promotion_of,
)
from ltxcore.stages.judge_lora.page import Judged, gate_rows, write_gate_page
from ltxcore.stages.judge_lora.request import keys_of
from ltxcore.store.blobs import read_json, write_json
from ltxcore.store.latents import LatentStore
from ltxcore.store.needed import keep_needed
from ltxcore.store.texts import TextStore

if TYPE_CHECKING:
    from ltxcore.stages.judge_lora.measuring import Measuring

logger = logging.getLogger(__name__)

BASE, CHAMPION, CHALLENGER = "base", "champion", "challenger"
AT_ONCE: Final = 16
"""Clips of a unit."""
LOSSES, CANDIDATE, PAGE = "losses.json", "candidate.json", "gate.html"
Unit = tuple[str, tuple[str, ...]]
"""A side, and clips by their content."""


class JudgeLora(Work[Unit]):
    """The comparison of one LoRA with the champion. What is measured is kept, clip by clip."""

    counted, doing = "clips", "measuring"
    loading, unit = "", "measure-clips"

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self.settings = promotion_of(self.ctx.recipe)
        self.challenger = challenger_of(self.ctx)
        training = self.challenger.training
        self.champion = opponent_of(self.ctx, training.fingerprint, training.request["transformer"])
        self.lineage = lineage_of(self.ctx, training)
        self.frozen = judged_clips(self.ctx, training.fingerprint)
        self.left_out = _left_out(self.ctx, self.frozen, self.champion, self.lineage.trained_on)
        self.clips = {c.media_id: c for c in self.frozen if c.media_id not in self.left_out}
        self.sides = (BASE, CHALLENGER) if self.champion is None else (BASE, CHAMPION, CHALLENGER)
        self.judged: Judged | None = None
        self._measuring: Measuring | None = None
        self._file = asked.directory / LOSSES
        known: dict[str, dict[str, Losses]] = read_json(self._file) if self._file.exists() else {}
        self._losses = {side: known.get(side, {}) for side in self.sides}

    def total(self) -> int:
        return sum(len(clips) for _, clips in self._waiting())

    def load(self, place: Place) -> None:
        """Compare both LoRAs with their hashes, and load the model.

        Raises:
            ChampionError, DamagedOutput: a LoRA is not what it was.
        """
        from ltxcore.stages.judge_lora.measuring import Measuring

        super().load(place)
        require_whole(self.ctx.workspace, self.challenger.files)
        if self.champion is not None and (faults := self.champion.faults()):
            advice = f"`ltx2 rollback {self.settings.model}` takes back the one before it"
            raise ChampionError("\n".join([*faults, advice]))
        arrangement = Arrangement() if place.plan is None else place.plan.arrangement
        champion = None if self.champion is None else self.champion.file(DIFFUSERS_FILE)
        files = {
            BASE: None,
            CHAMPION: champion,
            CHALLENGER: self.challenger.directory / DIFFUSERS_FILE,
        }
        directory, clips = self.asked.directory, self.clips.values()
        self._measuring = Measuring(self.ctx, directory, place.device, arrangement, clips, files)

    def units(self) -> Sequence[Unit]:
        return list(self._waiting())

    def _waiting(self) -> Iterator[Unit]:
        for side in self.sides:
            left = [media_id for media_id in self.clips if media_id not in self._losses[side]]
            for first in range(0, len(left), AT_ONCE):
                yield side, tuple(left[first : first + AT_ONCE])

    def do(self, unit: Unit) -> None:
        side, clips = unit
        for media_id in clips:
            self._losses[side][media_id] = loaded(self._measuring).losses(side, media_id)
            self.asked.progress.advance(1, f"measuring with the {side}")
        write_json(self._file, self._losses)

    def outcome(self) -> Result:
        """The verdict, and the new champion where it says so.

        Raises:
            ChampionMoved: another night was faster; the next try compares with its champion.
        """
        self._keep_frozen()
        directory = self.asked.directory
        write_json(self._file, self._losses)
        new = {clip.media_id for clip in self.frozen if clip.since == self.challenger.training.fingerprint}
        gate = self._gate(new)
        candidate = Candidate(
            training=self.challenger.training.fingerprint,
            files=self.challenger.hashes,
            verdict=gate.verdict,
            gate=gate_rows(gate.findings),
            lineage=self.lineage,
        )
        write_json(directory / CANDIDATE, candidate.model_dump(mode="json"))
        against = None if self.champion is None else self.champion.record.version
        became = (
            self._champions.promote(candidate, self.challenger.directory, "gate", against)
            if gate.takes
            else None
        )
        version = None if became is None else became.record.version
        message = sentence(gate, self.settings.model, against, version)
        logger.info("%s", message)
        self.judged = Judged(
            sentence=message,
            gate=gate,
            settings=self.settings,
            losses=self._losses,
            clips=self.clips,
            new=frozenset(new),
            left_out=self.left_out,
            lineage=self.lineage,
            against=against,
            training=candidate.training,
            seed=self.ctx.recipe.evaluation.eval_seed,
        )
        write_gate_page(directory / PAGE, self.judged)
        measured = len(self.clips) * len(self.sides)
        return Result(
            Outcome(
                counts={
                    "clips": len(self.clips),
                    "done": measured,
                    "hits": 0,
                    "left out": len(self.left_out),
                },
                facts=self._facts(gate, message, version),
                files=tuple(
                    output_file(self.ctx.workspace, directory / name) for name in (LOSSES, CANDIDATE, PAGE)
                ),
            )
        )

    @property
    def _champions(self) -> Champions:
        return Champions(self.ctx.workspace, self.settings.model)

    def _gate(self, new: set[str]) -> Gate:
        if self.champion is None:
            return nothing_to_compare(self.settings)
        challenger, champion = (
            {media_id: losses for media_id, losses in self._losses[side].items() if media_id not in new}
            for side in (CHALLENGER, CHAMPION)
        )
        measured = {metric: differences(challenger, champion, metric) for metric in METRICS}
        return judge(self.settings, measured, self.ctx.recipe.evaluation.eval_seed)

    def _keep_frozen(self) -> None:
        """Write down what was held out for the first time, and that the store has to keep what it needs."""
        directory = self._champions.directory
        records = FrozenClips(directory)
        records.keep(self.frozen)
        workspace = self.ctx.workspace
        needs = keys_of(self.ctx, records.all())
        keep_needed(workspace, workspace.relative(directory), needs, JUDGE.name)

    def _facts(self, gate: Gate, message: str, version: int | None) -> dict[str, Any]:
        return {
            "verdict": gate.verdict,
            "sentence": message,
            "model": self.settings.model,
            "version": version,
            "training": self.challenger.training.fingerprint,
            "lora": self.ctx.workspace.relative(self.challenger.directory),
            "directory": self.ctx.workspace.relative(self.asked.directory),
            "snapshot": self.ctx.snapshot.id,
        }


def _left_out(
    ctx: Context, frozen: Sequence[FrozenClip], champion: Champion | None, trained_on: Sequence[str]
) -> dict[str, str]:
    """Content of a clip -> why it is not compared on."""
    found: dict[str, str] = {}
    by_champion = set() if champion is None else set(champion.record.lineage.trained_on)
    latents, texts = LatentStore(ctx.store), TextStore(ctx.store)
    for clip in frozen:
        keys = keys_of(ctx, [clip])
        if clip.media_id in by_champion and champion is not None:
            found[clip.media_id] = f"version {champion.record.version} was trained on it"
        elif clip.media_id in trained_on:
            found[clip.media_id] = "the LoRA that this one goes on from was trained on it"
        elif latents.missing(keys["latents"]) or texts.missing(keys["text"]):
            found[clip.media_id] = "it is not in the store in the state in which it was first held out"
        elif any(latents.error(key) is not None for key in keys["latents"]):
            found[clip.media_id] = "it could not be encoded"
    return found


WORK = JudgeLora
