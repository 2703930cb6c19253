"""Training the tiny model: it learns, it resumes to the bit, stops when asked, says when it diverges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from PIL import Image

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.config.tread_settings import Route, TreadSettings
from ltxcore.models.files.loading import load_connectors, load_transformer
from ltxcore.models.files.source import ModelSource, prepare_model
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.training.batch_entry import Entry
from ltxcore.training.checkpoints import latest, list_checkpoints
from ltxcore.training.data import TrainingSample
from ltxcore.training.loop import TrainingInterrupted, TrainResult, train
from ltxcore.training.lora import lora_parameters
from ltxcore.training.metrics import StepMetrics, read_metrics
from ltxcore.training.plot import plot_losses
from ltxcore.training.resume import ForeignCheckpoint
from ltxcore.training.step import TrainingDiverged
from tests.rounding import assert_adds_up

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

CPU = torch.device("cpu")


class RandomSamples:
    """Fixed random samples in memory."""

    def __init__(self, audio: Sequence[bool] = (True, True), poisoned: str = "") -> None:
        self._audio = {f"clip{n}.mp4": sound for n, sound in enumerate(audio)}
        self._poisoned = poisoned

    def entries(self) -> list[Entry]:
        return [
            Entry(name, "64x64@17", fps=25.0, has_audio=sound, captions=2)
            for name, sound in self._audio.items()
        ]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        number = list(self._audio).index(sample_id)
        clip = torch.Generator().manual_seed(number)
        text = torch.Generator().manual_seed(100 + 10 * number + (9 if caption is None else caption))
        video = torch.randn(16, 3, 2, 2, generator=clip)
        if sample_id == self._poisoned:
            video[0, 0, 0, 0] = torch.nan
        return TrainingSample(
            video=video.bfloat16(),
            audio=torch.randn(17, 8, generator=clip).bfloat16() if self._audio[sample_id] else None,
            audio_valid=15,
            features=TextFeatures(video=torch.randn(6, 48, generator=text).bfloat16(), audio=None),
            fps=25.0,
        )


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def recipe(**training: object) -> Recipe:
    defaults: dict[str, object] = {
        "max_train_steps": 12,
        "learning_rate": 3e-3,
        "lr_warmup_steps": 3,
        "mixed_precision": "no",
        "ltx2_first_frame_conditioning_probability": 0.3,
        "caption_dropout_probability": 0.2,
        "allow_small_buckets": True,
    }
    return Recipe(
        lora=LoraSettings(lora_rank=4, lora_dropout=0.1),
        training=TrainingSettings(**{**defaults, **training}),  # type: ignore[arg-type]
    )


def run(
    models_dir: Path, directory: Path, settings: Recipe, samples: RandomSamples | None = None, **hooks: Any
) -> tuple[TrainResult, dict[str, torch.Tensor]]:
    source: ModelSource = prepare_model(ModelSettings(), models_dir)
    dtype = torch.bfloat16 if settings.training.mixed_precision == "bf16" else torch.float32
    transformer = load_transformer(source, dtype, CPU)
    result = train(
        transformer,
        load_connectors(source, dtype, CPU),
        samples or RandomSamples(),
        settings,
        directory,
        **{"run_fingerprint": "f", "max_tokens": source.text_max_tokens, **hooks},
    )
    return result, {name: p.detach().clone() for name, p in lora_parameters(transformer).items()}


def assert_equal_ends(first: Path, second: Path) -> None:
    """The last checkpoints agree in every bit, and so do the recorded losses."""
    a, b = latest(first), latest(second)
    assert a is not None
    assert b is not None
    assert a.step == b.step
    assert a.schedule == b.schedule
    assert a.optimizer.numbers == b.optimizer.numbers
    averages = (a.ema or {}, b.ema or {})
    for ours, theirs in ((a.lora, b.lora), (a.optimizer.tensors, b.optimizer.tensors), averages):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def measured(path: Path) -> list[tuple[Any, ...]]:
        return [
            (m.step, m.epoch, m.loss, m.audio_loss, m.learning_rate, m.grad_norm, m.sample_ids)
            for m in read_metrics(path / "metrics.jsonl")
        ]

    assert measured(first) == measured(second)


def test_thirty_steps_on_two_samples_lower_the_loss(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=30, learning_rate=2e-2, train_batch_size=2)
    seen: list[StepMetrics] = []
    result, weights = run(models_dir, tmp_path, settings, on_step=seen.append)
    assert result.steps == 30
    assert result.last_loss < 0.9 * result.first_loss
    assert result.seconds > 0
    assert result.peak_bytes > 0
    assert len(weights) == 112
    assert seen == read_metrics(tmp_path / "metrics.jsonl")
    for m in seen:
        assert_adds_up(m.loss, m.parts)
    assert [m.learning_rate for m in seen[:4]] == pytest.approx([0, 2e-2 / 3, 4e-2 / 3, 2e-2])
    plot_losses(tmp_path / "metrics.jsonl", tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.convert("RGBA").getpixel((0, 0))[3] == 0, "a page's own paper is behind it"
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "settings",
    [
        recipe(),
        recipe(
            max_train_steps=7,
            train_batch_size=2,
            gradient_accumulation_steps=2,
            mixed_precision="bf16",
            lr_scheduler="cosine",
        ),
        recipe(
            max_train_steps=7,
            optimizer="adamw_bf16",
            use_ema=True,
            ema_update_interval=2,
            grad_clip_method="value",
            epoch_order="by_bucket",
        ),
    ],
    ids=["plain", "accumulated bf16 cosine", "adamw_bf16 with an average"],
)
def test_a_stopped_training_continues_to_the_bit(models_dir: Path, tmp_path: Path, settings: Recipe) -> None:
    samples = RandomSamples((True, True, False))
    run(models_dir, tmp_path / "straight", settings, samples)
    last = 0

    def count(metrics: StepMetrics) -> None:
        nonlocal last
        last = metrics.step

    with pytest.raises(TrainingInterrupted, match="after step 5"):
        run(models_dir, tmp_path / "resumed", settings, samples, on_step=count, should_stop=lambda: last == 5)
    result, _ = run(models_dir, tmp_path / "resumed", settings, samples)
    assert result.steps == settings.training.max_train_steps
    assert_equal_ends(tmp_path / "straight", tmp_path / "resumed")


def test_routes_and_rollouts_continue_to_the_bit(models_dir: Path, tmp_path: Path) -> None:
    plain = recipe(max_train_steps=5, train_batch_size=2)
    rollouts = ScheduledSamplingSettings(
        scheduled_sampling_max_step_offset=2, scheduled_sampling_ramp_steps=2, scheduled_sampling_prob_end=1
    )
    route = Route(selection_ratio=0.5, start_layer_idx=0, end_layer_idx=-1)
    settings = plain.model_copy(
        update={"scheduled_sampling": rollouts, "tread": TreadSettings(routes=(route,))}
    )
    samples = RandomSamples((True, True, False))
    run(models_dir, tmp_path / "straight", settings, samples)
    steps: list[StepMetrics] = []
    with pytest.raises(TrainingInterrupted, match="after step 3"):
        run(
            models_dir,
            tmp_path / "resumed",
            settings,
            samples,
            on_step=steps.append,
            should_stop=lambda: len(steps) == 3,
        )
    run(models_dir, tmp_path / "resumed", settings, samples)
    assert_equal_ends(tmp_path / "straight", tmp_path / "resumed")
    found = read_metrics(tmp_path / "straight" / "metrics.jsonl")
    assert found[0].measures["rolled_samples"] == 0, "the ramp begins with no rollout"
    assert any(m.measures["rolled_samples"] for m in found)
    run(models_dir, tmp_path / "plain", plain, samples)
    first = read_metrics(tmp_path / "plain" / "metrics.jsonl")[0]
    assert first.loss != found[0].loss, "half of the tokens pass by from the first step on"


def killed_run(models_dir: str, directory: str) -> None:
    """The body of the process that is killed: it stands still after step 8."""
    settings = recipe(checkpoint_step_interval=3)

    def wait(metrics: StepMetrics) -> None:
        if metrics.step == 8:
            Path(directory, "at-step-8").touch()
            time.sleep(600)

    run(Path(models_dir), Path(directory), settings, on_step=wait)


def test_a_killed_training_continues_to_the_bit(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(checkpoint_step_interval=3)
    run(models_dir, tmp_path / "straight", settings)
    directory = tmp_path / "killed"
    directory.mkdir()
    code = f"from {__name__} import killed_run; killed_run({str(models_dir)!r}, {str(directory)!r})"
    root = Path(__file__).parents[3]
    victim = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    try:
        deadline = time.monotonic() + 600
        while not (directory / "at-step-8").exists():
            assert victim.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    # The record is ahead of the checkpoint, and its last line is cut short as by a power failure.
    assert [p.name for p in list_checkpoints(directory)] == ["checkpoint-3", "checkpoint-6"]
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    run(models_dir, directory, settings)
    assert [m.step for m in read_metrics(directory / "metrics.jsonl")] == list(range(1, 13))
    assert_equal_ends(tmp_path / "straight", directory)


def test_a_finished_training_is_not_done_again(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=2, lr_warmup_steps=0)
    first, weights = run(models_dir, tmp_path, settings)
    steps: list[StepMetrics] = []
    second, again = run(models_dir, tmp_path, settings, on_step=steps.append)
    assert (steps, second) == ([], replace(first, resumed_at=2))
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_checkpoints_of_another_training_are_refused(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=1, lr_warmup_steps=0)
    run(models_dir, tmp_path, settings)
    with pytest.raises(ForeignCheckpoint, match="cannot be continued as another"):
        run(models_dir, tmp_path, settings, run_fingerprint="another")


def test_gradient_checkpointing_changes_nothing(models_dir: Path, tmp_path: Path) -> None:
    for name, wanted in (("with", True), ("without", False)):
        run(models_dir, tmp_path / name, recipe(max_train_steps=4, gradient_checkpointing=wanted))
    assert_equal_ends(tmp_path / "with", tmp_path / "without")


def test_without_sound_only_the_picture_trains(models_dir: Path, tmp_path: Path) -> None:
    _, weights = run(
        models_dir, tmp_path, recipe(max_train_steps=2, lr_warmup_steps=0), RandomSamples((False, False))
    )
    assert len(weights) == 32
    assert all(m.audio_loss is None for m in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_batch_without_sound_gives_audio_layers_no_gradient(models_dir: Path, tmp_path: Path) -> None:
    # One step, on the silent clip or on the other one, of data that has sound; the start is the same.
    moved: dict[bool, set[str]] = {}
    for seed in range(8):
        settings = recipe(max_train_steps=1, lr_warmup_steps=0, seed=seed)
        run(models_dir, tmp_path / str(seed), settings, RandomSamples((True, False)))
        end = latest(tmp_path / str(seed))
        assert end is not None
        sound = read_metrics(tmp_path / str(seed) / "metrics.jsonl")[0].audio_loss is not None
        moved[sound] = {name.split(".lora_")[0] for name in end.optimizer.tensors}
        if len(moved) == 2:
            break
    assert len(moved[True]) == 56
    assert moved[False]
    assert not any("audio" in name for name in moved[False])


def test_a_loss_that_is_no_number_names_step_and_clip(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"loss of step [12] is nan; its samples: clip1\.mp4"):
        run(models_dir, tmp_path, recipe(), RandomSamples(poisoned="clip1.mp4"))
    assert all("clip1.mp4" not in m.sample_ids for m in read_metrics(tmp_path / "metrics.jsonl"))


def test_training_leaves_the_global_generator_alone(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=2, lr_warmup_steps=0)
    torch.manual_seed(1)
    run(models_dir, tmp_path / "a", settings)
    torch.manual_seed(2)
    run(models_dir, tmp_path / "b", settings)
    assert_equal_ends(tmp_path / "a", tmp_path / "b")


def test_the_record_is_plain_json_lines(models_dir: Path, tmp_path: Path) -> None:
    run(models_dir, tmp_path, recipe(max_train_steps=1, lr_warmup_steps=0))
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["step"] == 1
    assert line["sample_ids"] in (["clip0.mp4"], ["clip1.mp4"])
