"""The threads of a stage on a CPU: of the recipe and the model's size, kept, and never of the moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.busy import busy
from ltxcore.config.recipe import Recipe
from ltxcore.execution import threads
from ltxcore.execution.execution import Execution, find_result
from ltxcore.execution.memory_budget import memory_budget
from ltxcore.memory.threads import threads_for
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, TEXT, TRAIN, Stage
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.training import Training
from tests.stages.conftest import Bench

LARGE = 19_000_000_000


@contextmanager
def inherited(count: int) -> Iterator[None]:
    """The process has taken its threads from somewhere, and gets its own back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def changed(bench: Bench, **keys: object) -> Bench:
    return Bench(bench.root, bench.recipe.model_copy(update=keys))


def opened(bench: Bench, stage: Stage = LATENTS) -> Execution:
    ctx = bench.ctx
    return Execution(stage, ctx, find_result(stage, ctx)[0], bench.root / "run")


def computed_with(bench: Bench, stage: Stage = LATENTS) -> int:
    """What a stage's process has while it works; its stamp must say the same."""
    run = opened(bench, stage)
    with inherited(3):
        with memory_budget(run):
            found = torch.get_num_threads()
        assert torch.get_num_threads() == 3, "the rest of the process has its own again"
    assert run.finish(Outcome()).outcome.threads == found
    (run.directory / "stage.json").unlink()
    return found


@pytest.fixture
def split(bench: Bench) -> Bench:
    bench.look()
    bench.split()
    return bench


def test_one_below_fifty_million_parameters_and_half_of_the_cores_above() -> None:
    assert [threads_for(49_999_999, cores) for cores in (1, 2, 64)] == [1, 1, 1]
    assert [threads_for(50_000_000, cores) for cores in (1, 2, 3, 64)] == [1, 1, 1, 32]
    assert [threads_for(LARGE, 64, processes) for processes in (2, 4, 64)] == [16, 8, 1]


@pytest.mark.parametrize("stage", [AUDIO, LATENTS, TEXT], ids=lambda stage: stage.name)
def test_a_small_model_is_computed_with_one_thread_whatever_was_inherited(split: Bench, stage: Stage) -> None:
    assert computed_with(split, stage) == 1


def test_the_recipe_decides_and_no_key_depends_on_it(split: Bench) -> None:
    one = opened(split)
    two = opened(changed(split, threads=2))
    assert computed_with(changed(split, threads=2)) == 2
    assert (one.request, one.directory) == (two.request, two.directory)


def test_a_retry_on_a_machine_of_other_cores_has_the_number_of_the_first_try(
    split: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "count_parameters", lambda ctx, stage: LARGE)
    for cores in (4, 64):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        assert computed_with(split) == 2
    assert computed_with(changed(split, threads=1)) == 1, "the recipe may say otherwise"
    assert computed_with(split) == 1


def test_the_parameters_are_those_of_all_models_of_the_stage(split: Bench) -> None:
    source = split.ctx.source
    weights = {name: source.resident_bytes(name, 1) for name in ("vae", "audio_vae", "text_encoder")}
    assert threads.count_parameters(split.ctx, LATENTS) == weights["vae"] + weights["audio_vae"]
    assert threads.count_parameters(split.ctx, TEXT) > weights["text_encoder"]
    assert threads.count_parameters(split.ctx, AUDIO) == 0


def trained(bench: Bench, name: str, pause_at: int = 0) -> Path:
    directory = bench.root / name
    request = train_lora_request(bench.ctx)
    with threads.with_threads(bench.ctx, TRAIN, "cpu", directory):
        training = Training(bench.ctx, directory, request, "cpu")
        training.run(lambda metrics: None, lambda: False, pause_at)
    return directory


def numbers(directory: Path) -> list[tuple[float, float]]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [(line["loss"], line["grad_norm"]) for line in map(json.loads, lines)]


def test_a_training_goes_on_with_the_threads_of_its_checkpoint_to_the_same_bits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bench.recipe.training.model_copy(update={"max_train_steps": 4, "lr_warmup_steps": 1})
    bench = changed(bench, training=settings)
    bench.prepare()
    straight = trained(bench, "straight")
    trained(bench, "resumed", pause_at=2)

    # The other half: a machine that would take more, with a busy process beside, and of the training the
    # checkpoint alone says what it was computed with.
    monkeypatch.setattr(threads, "count_parameters", lambda ctx, stage: LARGE)
    monkeypatch.setattr(threads, "count_cores", lambda: 8)
    (bench.root / "resumed" / threads.FILE).unlink()
    with busy(1):
        resumed = trained(bench, "resumed")
    noted = json.loads((resumed / "resume.json").read_text())
    assert noted["threads"] == 1
    assert "threads: 1, as for its checkpoint; by itself this machine would take 4" in noted["notes"]
    assert numbers(resumed) == numbers(straight)
    ours, theirs = (load_file(d / "lora/pytorch_lora_weights.safetensors") for d in (straight, resumed))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_recipe_takes_whole_numbers_of_threads() -> None:
    assert Recipe(threads=3).threads == 3
    with pytest.raises(ValueError, match="greater than 0"):
        Recipe(threads=0)
