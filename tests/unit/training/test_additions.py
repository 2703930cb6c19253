"""Training the tiny model with what a recipe may add: kinds of adapters, regularisation data, compilation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import Arrangement, StrategyUnavailable
from ltxcore.memory.placement import Placement
from ltxcore.models.files.loading import load_connectors, load_transformer
from ltxcore.models.files.source import prepare_model
from ltxcore.training.batch_entry import Entry
from ltxcore.training.batch_schedule import BucketTooSmall
from ltxcore.training.data import TrainingSample
from ltxcore.training.loop import TrainingInterrupted, train
from ltxcore.training.metrics import read_metrics
from tests.rounding import assert_alike, terms_of
from tests.unit.training.test_loop import CPU, RandomSamples, assert_equal_ends, recipe, run

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def with_lora(settings: Recipe, **lora: object) -> Recipe:
    return settings.model_copy(update={"lora": LoraSettings.model_validate(lora)})


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_rank": 4, "use_dora": True, "use_rslora": True},
        {
            "lora_type": "lycoris",
            "lycoris_config": {"algo": "lokr", "factor": 4, "rank_dropout": 0.2, "module_dropout": 0.1},
        },
    ],
    ids=["dora", "lokr"],
)
def test_every_kind_of_adapter_learns_and_resumes(
    models_dir: Path, tmp_path: Path, lora: dict[str, object]
) -> None:
    settings = with_lora(recipe(max_train_steps=6, learning_rate=1e-2, checkpoint_step_interval=3), **lora)
    result, weights = run(models_dir, tmp_path / "straight", settings)
    assert result.resumed_at == 0
    assert any(value.any() for name, value in weights.items() if name.endswith(("lora_B.weight", "w2")))
    seen: list[int] = []
    with pytest.raises(TrainingInterrupted):
        run(
            models_dir,
            tmp_path / "resumed",
            settings,
            on_step=lambda m: seen.append(m.step),
            should_stop=lambda: len(seen) == 4,
        )
    result, _ = run(models_dir, tmp_path / "resumed", settings)
    assert result.resumed_at == 4
    assert_equal_ends(tmp_path / "straight", tmp_path / "resumed")


def test_a_longer_training_goes_on_to_the_same_bits(models_dir: Path, tmp_path: Path) -> None:
    def made_of(steps: int) -> dict[str, Any]:
        training = {"max_train_steps": steps, "num_train_epochs": 0}
        return {"training": {**training, "lr_scheduler": "constant_with_warmup"}}

    for name, steps in (("all/long", 8), ("continued/short", 5), ("continued/long", 8)):
        request = made_of(steps)
        hooks = {"run_fingerprint": str(request), "request": request}
        run(models_dir, tmp_path / name, recipe(max_train_steps=steps), **hooks)
    assert_equal_ends(tmp_path / "all/long", tmp_path / "continued/long")


class WithRegularisation(RandomSamples):
    """The first clip is regularisation data."""

    def entries(self) -> list[Entry]:
        first, *rest = super().entries()
        return [replace(first, regularisation=True), *rest]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        return replace(super().load(sample_id, caption), regularisation=sample_id == "clip0.mp4")


def test_regularisation_data_hold_the_adapter_to_the_base(models_dir: Path, tmp_path: Path) -> None:
    # A fresh adapter answers as the base does; one that has moved away is pulled back.
    settings = recipe(max_train_steps=12, lr_warmup_steps=0, learning_rate=2e-2)
    settings = with_lora(settings, lora_rank=4)
    losses: dict[str, list[float]] = {"clip0.mp4": [], "clip1.mp4": []}
    run(
        models_dir,
        tmp_path,
        settings,
        WithRegularisation((True, True)),
        on_step=lambda m: losses[m.sample_ids[0]].append(m.loss),
    )
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    if first.sample_ids == ("clip0.mp4",):
        assert first.loss == 0
    assert max(losses["clip0.mp4"]) > 0
    assert max(losses["clip0.mp4"]) < 0.2 * min(losses["clip1.mp4"])


def test_a_bucket_below_the_batch_is_refused_with_what_would_fill_it(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = recipe(train_batch_size=2, allow_small_buckets=False)
    with pytest.raises(BucketTooSmall, match=r"64x64@17 \(25 fps, silent\) has only 1 .*`repeats: 1`"):
        run(models_dir, tmp_path, settings, RandomSamples((True, True, False)))


def test_compiled_blocks_compute_the_same(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=3, lr_warmup_steps=0)
    _, plain = run(models_dir, tmp_path / "plain", settings)
    compiled = settings.training.model_copy(update={"torch_compile": True, "dynamo_backend": "aot_eager"})
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    _, ours = run(models_dir, tmp_path / "compiled", settings.model_copy(update={"training": compiled}))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    terms = terms_of(load_transformer(prepare_model(settings.model, models_dir), torch.float32, "cpu"))
    for name in plain:
        # Three steps, each forwards and backwards through the tiny model; Adam divides by small moments.
        assert_alike(ours[name], plain[name], 6 * terms)


def test_compiled_blocks_stay_in_place(models_dir: Path, tmp_path: Path) -> None:
    source = prepare_model(ModelSettings(), models_dir)
    transformer = load_transformer(source, torch.float32, CPU)
    placement = Placement(transformer, Arrangement("block_streaming"), CPU)
    settings = recipe(torch_compile=True, dynamo_backend="eager")
    with pytest.raises(StrategyUnavailable, match="torch_compile needs weights that stay in place"):
        train(
            transformer,
            load_connectors(source, torch.float32, CPU),
            RandomSamples(),
            settings,
            tmp_path,
            run_fingerprint="f",
            max_tokens=source.text_max_tokens,
            placement=placement,
        )
