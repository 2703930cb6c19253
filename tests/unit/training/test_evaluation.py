"""The held-out loss: fixed, harmless to the training, resumable, and what it decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltxcore.config.base import parse
from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.config.errors import ConfigError
from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.models.files.loading import load_connectors, load_transformer
from ltxcore.models.files.source import prepare_model
from ltxcore.training.checkpoints import latest, list_checkpoints
from ltxcore.training.early_stop import EVALUATIONS_FILE, Evaluated, read_evaluations, standing
from ltxcore.training.evaluation import Evaluation, HeldOutClip, fixed_noise
from ltxcore.training.loop import TrainingInterrupted
from ltxcore.training.metrics import StepMetrics
from ltxcore.training.step import TrainingDiverged, batch_losses
from tests.rounding import assert_alike
from tests.unit.training.test_loop import RandomSamples, assert_equal_ends, recipe, run

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

CPU = torch.device("cpu")
NOTHING = ConditioningSettings()
HELD_OUT = (HeldOutClip("clip0.mp4", "content 0"), HeldOutClip("clip2.mp4", "content 2"))


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def with_evaluation(settings: Recipe, **keys: object) -> Recipe:
    chosen = EvaluationSettings(**{"eval_share": 0.5, "eval_step_interval": 4, **keys})  # type: ignore[arg-type]
    return settings.model_copy(update={"evaluation": chosen})


def evaluation(models_dir: Path, clips: Sequence[HeldOutClip] = HELD_OUT, **keys: object) -> Evaluation:
    source = prepare_model(ModelSettings(), models_dir)
    settings = with_evaluation(recipe(), **keys).evaluation
    connectors = load_connectors(source, torch.float32, CPU)
    # The third clip has no sound.
    samples = RandomSamples((True, True, False))
    return Evaluation(
        clips, samples.load, settings, ConditioningSettings(), connectors, source.text_max_tokens, CPU
    )


@dataclass
class Scripted:
    """Gives the losses of a list, one after another, and notes how often it was asked."""

    losses: list[float]
    asked: list[float] = field(default_factory=list)

    def __call__(self, model: Any, should_stop: Callable[[], bool]) -> dict[str, float]:
        self.asked.append(self.losses[len(self.asked)])
        return {"eval_loss": self.asked[-1]}


def losses(directory: Path) -> list[tuple[int, float]]:
    return [(e.step, e.eval_loss) for e in read_evaluations(directory / EVALUATIONS_FILE)]


def test_the_same_model_gives_the_same_numbers_whatever_the_order_and_the_random_state(
    models_dir: Path,
) -> None:
    transformer = load_transformer(prepare_model(ModelSettings(), models_dir), torch.float32, CPU).train()
    measure = evaluation(models_dir)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = measure(transformer)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
    assert transformer.training
    torch.manual_seed(2)
    assert evaluation(models_dir, HELD_OUT[::-1])(transformer.eval()) == first
    assert not transformer.training
    assert first is not None
    assert first["eval_loss"] == first["eval_video_loss"] + first["eval_audio_loss"]
    for kind in ("video", "audio"):
        apart = [first[f"eval_{kind}_loss_sigma_{sigma}"] for sigma in (0.2, 0.4, 0.6, 0.8)]
        assert first[f"eval_{kind}_loss"] == pytest.approx(sum(apart) / 4)
    silent = evaluation(models_dir, HELD_OUT[1:])(transformer)
    assert silent is not None
    assert "eval_audio_loss" not in silent
    assert silent["eval_loss"] == silent["eval_video_loss"]


def test_each_clip_sigma_and_seed_has_noise_of_its_own(models_dir: Path) -> None:
    from ltxcore.training.data import collate

    samples = RandomSamples()
    batch = collate(["clip0.mp4"], [samples.load("clip0.mp4", 0)])
    noised = fixed_noise(batch, 0.25, 42, "content", NOTHING)
    assert torch.equal(noised.video.target, fixed_noise(batch, 0.25, 42, "content", NOTHING).video.target)
    for sigma, seed, content in ((0.5, 42, "content"), (0.25, 43, "content"), (0.25, 42, "other")):
        other = fixed_noise(batch, sigma, seed, content, NOTHING)
        assert not torch.equal(noised.video.target, other.video.target)
    clean = batch.video.float().flatten(2).transpose(1, 2)
    assert_alike(noised.video.tokens, clean + 0.25 * noised.video.target, 4)
    assert noised.audio is not None
    assert noised.audio.mask.sum() == 15, "padding is masked"


def test_evaluation_changes_no_bit_of_the_training(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=6, train_batch_size=2)
    run(models_dir, tmp_path / "without", settings)
    run(
        models_dir,
        tmp_path / "with",
        with_evaluation(settings, eval_step_interval=2),
        evaluate=evaluation(models_dir),
    )
    assert_equal_ends(tmp_path / "without", tmp_path / "with")
    record = read_evaluations(tmp_path / "with" / EVALUATIONS_FILE)
    assert [e.step for e in record] == [0, 2, 4, 6]
    assert len({e.eval_loss for e in record}) == 4, "the adapter is part of what is measured"
    assert all(e.eval_s > 0 for e in record)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_bf16"])
def test_the_average_is_measured_beside_the_weights_and_leaves_no_trace(
    models_dir: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = recipe(max_train_steps=5, lr_warmup_steps=0, use_ema=True, ema_decay=0.7, optimizer=optimizer)
    run(models_dir, tmp_path / "without", settings)
    measure = evaluation(models_dir)
    settings = with_evaluation(settings, eval_step_interval=2)
    run(models_dir, tmp_path / "with", settings, evaluate=measure)
    assert_equal_ends(tmp_path / "without", tmp_path / "with")

    record = read_evaluations(tmp_path / "with" / EVALUATIONS_FILE)
    assert [e.step for e in record] == [0, 2, 4, 5]
    assert record[0].ema == record[0].eval_loss, "the average begins as the weights"
    assert all(e.ema != e.eval_loss for e in record[1:])
    last = record[-1]
    average = measured_with(models_dir, tmp_path / "with", settings, measure, "ema")
    assert (average.pop("eval_loss"), average) == (last.ema, of_average(last.measures))
    own = measured_with(models_dir, tmp_path / "with", settings, measure, "lora")
    assert own["eval_loss"] == last.eval_loss


def measured_with(
    models_dir: Path, directory: Path, settings: Recipe, measure: Evaluation, which: str
) -> dict[str, float]:
    """The losses of a model of its own with the weights, or the averages, of the last checkpoint."""
    from ltxcore.models.modulation import install_cross_modulation
    from ltxcore.training.lora import add_lora, load_weights, lora_parameters, target_modules
    from ltxcore.training.optimizer import weights_dtype

    transformer = load_transformer(prepare_model(ModelSettings(), models_dir), torch.float32, CPU)
    install_cross_modulation(transformer)
    add_lora(transformer, settings.lora, target_modules(transformer, with_audio=True), seed=1)
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.to(weights_dtype(settings.training))
    checkpoint = latest(directory)
    assert checkpoint is not None
    load_weights(lora_parameters(transformer), getattr(checkpoint, which))
    found = measure(transformer)
    assert found is not None
    return found


def of_average(measures: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("ema_"): v for name, v in measures.items() if name.startswith("ema_")}


def test_step_0_is_the_base_itself(models_dir: Path, tmp_path: Path) -> None:
    measure = evaluation(models_dir)
    run(models_dir, tmp_path, with_evaluation(recipe(max_train_steps=1, lr_warmup_steps=0)), evaluate=measure)
    base = load_transformer(prepare_model(ModelSettings(), models_dir), torch.float32, CPU)
    from ltxcore.models.modulation import install_cross_modulation

    install_cross_modulation(base)
    alone = measure(base)
    assert alone is not None
    assert losses(tmp_path)[0] == (0, alone["eval_loss"])


def test_training_on_the_held_out_clip_lowers_its_loss(models_dir: Path, tmp_path: Path) -> None:
    settings = recipe(max_train_steps=30, learning_rate=2e-2, train_batch_size=2)
    run(
        models_dir,
        tmp_path,
        with_evaluation(settings, eval_step_interval=30),
        evaluate=evaluation(models_dir, HELD_OUT[:1]),
    )
    (_, base), (_, trained) = losses(tmp_path)
    assert trained < 0.95 * base


def test_standing() -> None:
    def of(values: Sequence[float], min_delta: float = 0.0) -> tuple[int, int]:
        found = standing([Evaluated(10 * n, v, 0.0) for n, v in enumerate(values)], min_delta)
        return found.best_step, found.without_improvement

    assert of([5]) == (0, 0)
    assert of([5, 4, 3]) == (20, 0)
    assert of([5, 4, 4, 4.5]) == (10, 2)
    assert of([5, 6, 7]) == (0, 2), "the base is the first to beat"
    # The best is the lowest, be it lower by less than what counts as an improvement.
    assert of([5, 4.9, 4.8], min_delta=0.5) == (20, 2)
    # Small steps that add up are an improvement.
    assert of([5, 4.7, 4.4], min_delta=0.5) == (20, 0)
    with pytest.raises(ValueError, match="no evaluation"):
        standing([], 0.0)


def test_training_ends_when_the_loss_no_longer_falls_and_keeps_the_best(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = recipe(max_train_steps=40, checkpoint_step_interval=2, checkpoints_total_limit=2)
    settings = with_evaluation(settings, early_stop_patience=3)
    script = Scripted([9, 8, 7, 7.5, 7.2, 7.1, 1])
    steps: list[int] = []
    result, _ = run(models_dir, tmp_path, settings, evaluate=script, on_step=lambda m: steps.append(m.step))
    # Evaluated at 0, 4, 8 (the best), 12, 16 and 20.
    assert (result.steps, result.best_step, result.stopped_early) == (20, 8, True)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-18", "checkpoint-20"]
    assert steps[-1] == 20
    again, _ = run(models_dir, tmp_path, settings, evaluate=script, on_step=lambda m: steps.append(m.step))
    assert (again, steps[-1], len(script.asked)) == (replace(result, resumed_at=20), 20, 6), "it is over"


@pytest.mark.parametrize(
    ("export", "best", "stopped_at"), [("beside", 8, 16), ("instead", 4, 12)], ids=["weights", "average"]
)
def test_what_is_exported_decides_when_to_stop_and_which_step_is_the_best(
    models_dir: Path, tmp_path: Path, export: str, best: int, stopped_at: int
) -> None:
    settings = recipe(max_train_steps=40, use_ema=True, ema_export=export)
    settings = with_evaluation(settings, early_stop_patience=2)
    # The base, and then by turns the weights and their average.
    script = Scripted([9, 8, 4, 6, 5, 7, 5, 7, 5, 7, 5])
    result, _ = run(models_dir, tmp_path, settings, evaluate=script)
    assert (result.best_step, result.steps, result.stopped_early) == (best, stopped_at, True)
    record = read_evaluations(tmp_path / EVALUATIONS_FILE)
    assert [(e.eval_loss, e.ema) for e in record[:3]] == [(9, 9), (8, 4), (6, 5)]
    assert {e.exports_ema for e in record} == {export == "instead"}
    assert (tmp_path / f"checkpoint-{best}").is_dir()


def test_an_average_that_fails_to_be_measured_leaves_the_weights_as_they_were() -> None:
    from ltxcore.config.training_settings import TrainingSettings
    from ltxcore.training.ema import Ema

    weight = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.bfloat16))
    before, held = weight.detach().clone(), weight.data_ptr()
    ema = Ema({"w": weight}, TrainingSettings(use_ema=True))
    ema.averages["w"] += 1 / 3

    def fails() -> None:
        assert torch.equal(weight, ema.averages["w"].bfloat16())
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"), ema.in_place({"w": weight}, torch.nn.Identity()):
        fails()
    assert torch.equal(weight, before)
    assert weight.data_ptr() == held


def test_the_best_checkpoint_is_written_between_the_intervals_too(models_dir: Path, tmp_path: Path) -> None:
    settings = with_evaluation(recipe(checkpoint_step_interval=100, checkpoints_total_limit=1))
    result, _ = run(models_dir, tmp_path, settings, evaluate=Scripted([9, 5, 6, 7]))
    assert (result.steps, result.best_step, result.stopped_early) == (12, 4, False)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-12"]


def test_a_resumed_training_evaluates_and_stops_like_an_undisturbed_one(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = with_evaluation(
        recipe(max_train_steps=30, checkpoint_step_interval=3), early_stop_patience=2, eval_step_interval=4
    )
    script = [9.0, 8.0, 7.0, 7.5, 7.2, 1.0]
    run(models_dir, tmp_path / "straight", settings, evaluate=Scripted(script))
    last = 0

    def note(metrics: StepMetrics) -> None:
        nonlocal last
        last = metrics.step

    with pytest.raises(TrainingInterrupted):
        run(
            models_dir,
            tmp_path / "resumed",
            settings,
            evaluate=Scripted(script),
            on_step=note,
            should_stop=lambda: last == 9,
        )
    # As where the process was killed at step 13: its record is ahead of its checkpoints.
    with (tmp_path / "resumed" / EVALUATIONS_FILE).open("a") as file:
        file.write('{"step": 12, "eval_loss": 0.1, "eval_s": 1.0, "measures": {}}\n{"step": 16, "ev')
    result, _ = run(models_dir, tmp_path / "resumed", settings, evaluate=Scripted(script[3:]))
    assert (result.steps, result.best_step) == (16, 8)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "straight")
    assert_equal_ends(tmp_path / "straight", tmp_path / "resumed")


def test_a_cancellation_cuts_an_evaluation_short_and_it_is_made_up_for(
    models_dir: Path, tmp_path: Path
) -> None:
    settings = with_evaluation(recipe(max_train_steps=4, use_ema=True))
    run(models_dir, tmp_path / "straight", settings, evaluate=evaluation(models_dir))
    measure, asked = evaluation(models_dir), 0

    def stop_inside_the_last_evaluation() -> bool:
        nonlocal asked
        # The passes of the base, one question after each of the steps 1, 2 and 3, the passes of the weights.
        asked += 1
        return asked > 2 * measure.passes + 3 + 2

    with pytest.raises(TrainingInterrupted, match="after step 4"):
        run(
            models_dir,
            tmp_path / "resumed",
            settings,
            evaluate=measure,
            should_stop=stop_inside_the_last_evaluation,
        )
    assert [step for step, _ in losses(tmp_path / "resumed")] == [0]
    result, _ = run(models_dir, tmp_path / "resumed", settings, evaluate=measure)
    assert result.steps == 4
    assert losses(tmp_path / "resumed") == losses(tmp_path / "straight")
    resumed, straight = (
        [e.ema for e in read_evaluations(tmp_path / name / EVALUATIONS_FILE)]
        for name in ("resumed", "straight")
    )
    assert resumed == straight
    assert_equal_ends(tmp_path / "straight", tmp_path / "resumed")


def test_a_cancellation_during_the_first_evaluation_leaves_nothing(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="nothing to keep yet"):
        run(
            models_dir,
            tmp_path,
            with_evaluation(recipe()),
            evaluate=evaluation(models_dir),
            should_stop=lambda: True,
        )
    assert not list_checkpoints(tmp_path)


def test_a_held_out_loss_that_is_no_number_stops_the_training(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="held-out loss of step 4 is nan"):
        run(models_dir, tmp_path, with_evaluation(recipe()), evaluate=Scripted([1.0, math.nan]))


def test_a_gradient_that_is_no_number_stops_the_training_and_names_the_samples(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_broken_gradient(*arguments: Any) -> Any:
        found = batch_losses(*arguments)
        found.total.register_hook(lambda gradient: gradient * math.inf)
        return found

    monkeypatch.setattr("ltxcore.training.loop.batch_losses", with_broken_gradient)
    with pytest.raises(TrainingDiverged, match=r"gradient of step 1 is (nan|inf); its samples: clip\d.mp4"):
        run(models_dir, tmp_path, recipe(lr_warmup_steps=0))
    assert not list_checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"early_stop_patience": 3},
            r"early_stop_patience go by the loss on held-out clips.*eval_share: 0\.1",
        ),
        ({"export": "best"}, "export: best go by"),
        ({"eval_share": 1.0}, "eval_share"),
        ({"eval_sigmas": []}, "eval_sigmas"),
        ({"eval_sigmas": [0.0]}, "eval_sigmas"),
        ({"eval_sigmas": [0.5, 0.5]}, "more than once"),
        ({"eval_step_interval": 0}, "eval_step_interval"),
        ({"early_stop_min_delta": -1}, "early_stop_min_delta"),
        ({"eval_shares": 0.1}, "did you mean `eval_share`"),
    ],
)
def test_wrong_settings_are_refused_by_name(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(EvaluationSettings, keys, "recipe.yaml")


def test_one_dataset_may_be_named_without_a_list() -> None:
    assert EvaluationSettings(eval_datasets="held").eval_datasets == ("held",)  # type: ignore[arg-type]


def test_an_evaluation_of_nothing_is_refused(models_dir: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        evaluation(models_dir, ())
