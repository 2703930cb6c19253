"""Which samples are held out for evaluation: a matter of their content and dataset, never of their order."""

from __future__ import annotations

from collections.abc import Sequence

from ltxcore.config.datasets import Datasets
from ltxcore.config.errors import ConfigError, Problem, nearest
from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.pipeline.base.context import Context
from ltxcore.store.fingerprint import SEED_BITS, derive_seed, fingerprint
from ltxcore.store.snapshot import Sample, Snapshot

WHY = "held out for evaluation, never trained on"


def held_out(settings: EvaluationSettings, snapshot: Snapshot) -> dict[str, Sample]:
    """Sample id -> sample, of all that are not trained on.

    A clip is held out with every copy of it, whatever dataset the copy is in.

    Raises:
        ConfigError: the settings hold out no clip, or every one.
    """
    if not settings.holds_out:
        return {}
    ids = held_out_ids(settings, snapshot.samples)
    found = {sample.id: sample for sample in snapshot.samples if sample.id in ids}
    if not found:
        raise _none(settings, snapshot)
    if len(found) == len(snapshot.samples):
        message = f"all {len(found)} clips are held out, and nothing is left to train on; hold out fewer"
        raise ConfigError("the recipe's evaluation", [Problem(_key(settings), message)])
    return found


def held_out_ids(settings: EvaluationSettings, samples: Sequence[Sample]) -> frozenset[str]:
    """The ids of what is held out of some samples, be it none or all of them."""
    chosen = {sample.media_id for sample in samples if _is_chosen(settings, sample)}
    return frozenset(sample.id for sample in samples if sample.media_id in chosen)


def evaluation_set(settings: EvaluationSettings, snapshot: Snapshot) -> str:
    """The id of what is measured: losses of two trainings compare where it is equal."""
    seen = [
        {"media": s.media_id, "frames": s.frames.model_dump(), "target": s.geometry.target}
        for s in sorted(held_out(settings, snapshot).values(), key=lambda s: s.id)
    ]
    return fingerprint({"clips": seen, "sigmas": settings.eval_sigmas, "seed": settings.eval_seed})[:16]


def check_held_out(ctx: Context) -> None:
    """Refuse settings that hold out nothing, or everything, before the long stages begin.

    Raises:
        ConfigError: see `held_out`.
    """
    held_out(ctx.recipe.evaluation, ctx.snapshot)


def check_datasets(settings: EvaluationSettings, datasets: Datasets) -> None:
    """Refuse the name of a dataset that there is not.

    Raises:
        ConfigError: names the nearest one that there is.
    """
    known = [dataset.id for dataset in datasets.media]
    problems = [
        Problem("evaluation.eval_datasets", f"`{name}` is not a dataset in use; {nearest(name, known)}")
        for name in settings.eval_datasets
        if name not in known
    ]
    if problems:
        raise ConfigError("the recipe", problems)


def _is_chosen(settings: EvaluationSettings, sample: Sample) -> bool:
    if sample.dataset in settings.eval_datasets:
        return True
    return not sample.regularisation and _draw(sample) < settings.eval_share


def _draw(sample: Sample) -> float:
    """A number in [0, 1) that belongs to the file's content."""
    return derive_seed("held out", sample.media_id) / 2**SEED_BITS


def _none(settings: EvaluationSettings, snapshot: Snapshot) -> ConfigError:
    draws = sorted(_draw(sample) for sample in snapshot.samples if not sample.regularisation)
    message = f"holds out none of the {len(snapshot.samples)} clips"
    if settings.eval_share and draws:
        share = (int(draws[0] * 100) + 1) / 100
        message += f"; a share of {share:.2f} would hold out at least one"
    return ConfigError("the recipe's evaluation", [Problem(_key(settings), message)])


def _key(settings: EvaluationSettings) -> str:
    value = f" {settings.eval_share:g}" if settings.eval_share else f" {list(settings.eval_datasets)}"
    return ("eval_share" if settings.eval_share else "eval_datasets") + value
