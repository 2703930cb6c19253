"""What `auto` comes to: the same on every machine, part of the request, and what is trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.memory.plan import OverBudget
from ltxcore.pipeline.plan.auto_settings import PRECISIONS, settle
from ltxcore.stages.train_lora.request import request as train_lora_request
from tests.stages.conftest import Bench, make_bench


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    bench = make_bench(tmp_path_factory.mktemp("settled"), sample_clips, tiny_models)
    bench.look()
    bench.split()
    return bench


def changed(bench: Bench, **sections: dict[str, object]) -> Bench:
    updates = {
        name: getattr(bench.recipe, name).model_copy(update=values) for name, values in sections.items()
    }
    return Bench(bench.root, bench.recipe.model_copy(update=updates))


def budget(vram_gib: float, ram_gib: float = 16) -> dict[str, object]:
    return {"vram_gib": vram_gib, "ram_gib": ram_gib}


def test_without_auto_nothing_is_decided(probed: Bench) -> None:
    ctx = probed.ctx
    assert settle(ctx) is ctx


def test_batches_are_as_large_as_fits_and_as_the_clips_fill(probed: Bench) -> None:
    auto = {"train_batch_size": "auto"}
    rich = settle(changed(probed, training=auto, memory=budget(24)).ctx).recipe.training.train_batch_size
    buckets = probed.ctx.snapshot.buckets()
    assert isinstance(rich, dict)
    assert rich.keys() == buckets.keys()
    for bucket, samples in buckets.items():
        silent = [s for s in samples if s.audio is None]
        loud = [s for s in samples if s.audio is not None]
        assert rich[bucket] == min(len(part) for part in (silent, loud) if part)
    with pytest.raises(OverBudget, match=r"auto finds no batch of the bucket .* vram_gib 0\.5"):
        settle(changed(probed, training=auto, memory=budget(0.5)).ctx)


def test_the_request_holds_what_was_decided(probed: Bench) -> None:
    bench = changed(
        probed,
        training={"train_batch_size": "auto"},
        model={"base_model_precision": "auto"},
        memory=budget(24),
    )
    by_hand = changed(
        probed, training={"train_batch_size": settle(bench.ctx).recipe.training.train_batch_size}
    )
    assert train_lora_request(bench.ctx) == train_lora_request(by_hand.ctx)
    assert settle(bench.ctx).recipe.model.base_model_precision == "no_change"


def test_the_most_exact_precision_that_fits_is_taken(probed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltxcore.pipeline.plan import auto_settings

    bench = changed(probed, model={"base_model_precision": "auto"}, memory=budget(24))
    tried: list[str] = []

    def largest(ctx: object, work: object) -> int:
        tried.append(ctx.recipe.model.base_model_precision)  # type: ignore[attr-defined]
        return 99 if len(tried) == 2 else 0

    monkeypatch.setattr(auto_settings, "_largest_batch", largest)
    int8 = settle(bench.ctx)
    assert (tried, int8.recipe.model.base_model_precision) == (list(PRECISIONS[:2]), "int8-quanto")
    fingerprint = int8.source.fingerprint("transformer")
    assert fingerprint != probed.ctx.source.fingerprint("transformer")
    monkeypatch.setattr(auto_settings, "_largest_batch", lambda ctx, work: 0)
    with pytest.raises(OverBudget, match="auto finds none of no_change, int8-quanto, int4-quanto"):
        settle(bench.ctx)
