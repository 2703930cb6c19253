"""Whether a snapshot holds what a training of its recipe needs. Asked once every file has its verdict."""

from __future__ import annotations

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.learnable import NothingLearnt, learnable
from ltxcore.pipeline.data.rejection_reasons import by_reason
from ltxcore.store.printable import printable
from ltxcore.store.snapshot import Snapshot

MOST_NAMED = 20
"""Rejected files that are named one by one where there is nothing else."""


class NothingToTrain(RuntimeError):
    """No file of the datasets can be trained on, or none has the sound that was asked for."""


def require_trainable(ctx: Context, snapshot: Snapshot) -> None:
    """Refuse datasets of which nothing would be learnt.

    Raises:
        NothingToTrain: no file can be used, or sound was asked for and no clip has any.
    """
    where = ", ".join(str(ctx.datasets.directory(d)) for d in ctx.datasets.media)
    _require_samples(snapshot, where)
    samples = snapshot.samples
    if snapshot.wants_audio and not any(sample.audio for sample in samples):
        raise NothingToTrain(
            f"sound was asked for and none of the {len(samples)} clips in {where} has any; "
            "add clips with sound, write `audio: {allow_zero_audio: true}` in their datasets to train them "
            "as silent, or `audio: {auto_split: false}`"
        )
    try:
        learnable(samples, ctx.recipe.given)
    except NothingLearnt as error:
        raise NothingToTrain(str(error)) from error
    for dataset in ctx.datasets.video:
        clips = [sample for sample in samples if sample.dataset == dataset.id]
        if dataset.demands_sound and clips and not any(sample.audio for sample in clips):
            raise NothingToTrain(
                f"sound was asked for in `{dataset.id}` and none of its {len(clips)} clips has any; add "
                "sound, or write `audio: {auto_split: false}` and no s2v_datasets, or "
                "`audio: {allow_zero_audio: true}` to train them as silent"
            )


def _require_samples(snapshot: Snapshot, where: str) -> None:
    rejections = snapshot.rejections
    if snapshot.samples:
        return
    if not rejections:
        raise NothingToTrain(f"there are no clips in {where}")
    listed = [f"  {printable(r.path)}: {r.reason}" for r in rejections]
    if len(listed) > MOST_NAMED:
        listed = [f"  {r.count}, such as {r.examples[0]}: {r.text}" for r in by_reason(rejections)]
    lines = "\n".join(listed[:MOST_NAMED])
    raise NothingToTrain(f"none of the {len(rejections)} files in {where} can be used:\n{lines}")
