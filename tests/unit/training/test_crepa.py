"""CREPA: the formula, which states the hook takes, gradients however the blocks run, resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.arrangement import Arrangement, GroupSettings
from ltxcore.memory.placement import Placement
from ltxcore.models.files.loading import load_connectors, load_transformer
from ltxcore.models.files.source import prepare_model
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.training.batch_entry import Entry
from ltxcore.training.checkpoints import latest
from ltxcore.training.crepa import Alignment, Projector, alignment, write_projector
from ltxcore.training.data import Batch, TrainingSample, collate
from ltxcore.training.loop import TrainingInterrupted, train
from ltxcore.training.lora import add_lora, lora_parameters, target_modules
from ltxcore.training.metrics import read_metrics
from ltxcore.training.objective import Losses
from tests.rounding import assert_adds_up, assert_alike, bound, terms_of
from tests.unit.toy_transformer import Inputs, make_transformer, velocity

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

WIDTH = 24
FRAMES, TOKENS = 3, 4
CHAIN = terms_of(make_transformer(layers=5))


def slow_score(h: torch.Tensor, y: torch.Tensor, distance: int, tau: float) -> tuple[float, float]:
    """The formula as it is written, one sample, one pair of tokens at a time."""

    def cos(f: int, g: int) -> float:
        pairs = zip(h[f], y[g], strict=True)
        found = [float(a @ b) / (float(a.norm()) * float(b.norm())) for a, b in pairs]
        return sum(found) / len(found)

    frames = len(h)
    near = total = 0.0
    for f in range(frames):
        near += cos(f, f)
        total += cos(f, f)
        for d in range(1, distance + 1):
            for g in (f - d, f + d):
                if 0 <= g < frames:
                    total += math.exp(-d / tau) * cos(f, g)
    return near / frames, total / frames


@pytest.mark.parametrize(("frames", "distance", "tau"), [(5, 2, 0.7), (5, 0, 1.0), (3, 9, 1.5), (1, 1, 1.0)])
def test_the_formula_is_the_written_one(frames: int, distance: int, tau: float) -> None:
    draw = torch.Generator().manual_seed(1)
    h, y = (torch.randn(2, frames, TOKENS, WIDTH, generator=draw) for _ in range(2))
    near, score = alignment(h, y, distance, tau)
    for sample in range(2):
        expected = slow_score(h[sample].double(), y[sample].double(), distance, tau)
        # Each cosine is a sum over the width; then frames, tokens and neighbours are added up.
        terms = WIDTH * frames * TOKENS * (2 * distance + 1)
        allowed = bound(terms, max(1.0, *map(abs, expected)))
        assert (near[sample].item(), score[sample].item()) == pytest.approx(expected, abs=allowed)


def test_states_that_are_the_teachers_own_score_one_a_frame() -> None:
    y = torch.randn(1, FRAMES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
    near, score = alignment(7 * y, y.bfloat16(), distance=0, tau=1.0)
    assert near.item() == score.item() == pytest.approx(1, abs=1e-3)


def features(count: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(count, FRAMES, TOKENS, WIDTH, generator=draw).bfloat16()


def batch(teacher: torch.Tensor | None) -> Batch:
    return Batch(("a", "b"), torch.zeros(2, 16, FRAMES, 2, 2), None, None, (), 25.0, teacher=teacher)


def settings(**keys: Any) -> CrepaSettings:
    return CrepaSettings(crepa_enabled=True, crepa_encoder="tiny", **{"crepa_block_index": 2, **keys})


def plain_loss(value: torch.Tensor) -> Losses:
    return Losses(total=value, video=value, audio=None)


def gradients(
    place: Callable[[Any], Placement], *, checkpointing: bool, dtype: torch.dtype = torch.float32
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of adapter and projector after one pass; the alignment alone is the loss."""
    transformer = make_transformer(layers=5, dtype=dtype)
    placement = place(transformer)
    lora = LoraSettings(lora_rank=4, lora_dropout=0.1)
    add_lora(transformer, lora, target_modules(transformer, with_audio=True), seed=1)
    for number, parameter in enumerate(lora_parameters(transformer).values()):
        # B starts at zero, and then no gradient reaches A.
        draw = torch.Generator().manual_seed(number)
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    placement.hold_adapter(lora_parameters(transformer).values())
    crepa = Alignment(transformer, settings(), WIDTH, "cpu", seed=3)
    transformer.train()
    if checkpointing:
        placement.enable_checkpointing()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        out = velocity(transformer, Inputs.random(0, dtype=dtype))
    # Every block runs backwards, those after the aligned one with gradients of zero.
    losses = crepa.added_to(plain_loss(0.0 * out.float().sum()), batch(features()))
    losses.total.backward()
    named = {**lora_parameters(transformer), **crepa.parameters()}
    found = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    crepa.remove()
    placement.remove()
    weighted = settings().crepa_lambda * losses.measures["crepa_loss"].item()
    assert weighted == pytest.approx(losses.total.item())
    return losses.total.item(), found


def streamed(transformer: Any) -> Placement:
    return Placement(transformer, Arrangement("block_streaming", frozenset({1})), "cpu")


def grouped(transformer: Any) -> Placement:
    return Placement(transformer, Arrangement("group_offload", groups=GroupSettings()), "cpu")


@cache
def plain_gradients(dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    return gradients(Placement.as_it_is, checkpointing=False, dtype=dtype)


@pytest.mark.parametrize("place", [Placement.as_it_is, streamed, grouped])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_equal_however_the_blocks_run(
    place: Callable[[Any], Placement], dtype: torch.dtype
) -> None:
    loss, expected = plain_gradients(dtype)
    for checkpointing in (False, True):
        found_loss, found = gradients(place, checkpointing=checkpointing, dtype=dtype)
        assert found_loss == loss
        assert found.keys() == expected.keys()
        different = [name for name in found if not torch.equal(found[name], expected[name])]
        assert not different, different[:3]
    reached = {name for name, gradient in expected.items() if gradient.abs().sum() > 0}
    assert {"crepa.norm.weight", "crepa.norm.bias", "crepa.linear.weight", "crepa.linear.bias"} <= reached
    assert any(name.startswith("transformer_blocks.2.") for name in reached)
    assert not any(name.startswith(("transformer_blocks.3.", "transformer_blocks.4.")) for name in reached)


def test_a_compiled_block_gives_the_same_gradients() -> None:
    def compiled(transformer: Any) -> Placement:
        for block in transformer.transformer_blocks:
            block.compile(backend="eager", dynamic=False)
        return Placement.as_it_is(transformer)

    for checkpointing in (False, True):
        loss, expected = gradients(Placement.as_it_is, checkpointing=checkpointing)
        found_loss, found = gradients(compiled, checkpointing=checkpointing)
        assert found_loss == pytest.approx(loss, rel=bound(CHAIN, 1.0))
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert_alike(found[name], gradient, 2 * CHAIN)


def share(rank: int, store: str, results: Any) -> None:
    """A process of two: its own gradients, then those of both."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    crepa = Alignment(make_transformer(layers=3), settings(), WIDTH, "cpu", seed=3)
    crepa.share_gradients()
    untouched = all(parameter.grad is None for parameter in crepa.projector.parameters())
    if rank == 0:
        # The other process's batch was sound alone.
        crepa.projector(torch.ones(64)).sum().backward()
    crepa.share_gradients()
    results.put((rank, untouched, crepa.projector.linear.bias.grad.tolist()))
    torch.distributed.destroy_process_group()


def test_processes_that_train_together_share_the_projectors_gradients(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=share, args=(rank, str(tmp_path / "store"), results)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(rank, True, [0.5] * WIDTH) for rank in (0, 1)]


def test_the_states_are_those_of_the_blocks_video_stream_before_any_conditions_tokens() -> None:
    transformer = make_transformer(layers=3)
    crepa = Alignment(transformer, settings(crepa_adjacent_distance=0), WIDTH, "cpu", seed=3)
    seen: list[torch.Tensor] = []
    transformer.transformer_blocks[2].register_forward_hook(lambda block, args, out: seen.append(out[0]))
    velocity(transformer, Inputs.random(0))
    states = seen[0][:, : 2 * TOKENS].unflatten(1, (2, TOKENS))
    # A teacher of two frames: the rest of the tokens are a condition's, and no part of the alignment.
    teacher = features()[:, :2]
    losses = crepa.added_to(plain_loss(torch.zeros(())), batch(teacher))
    _, score = alignment(crepa.projector(states), teacher, 0, 1.0)
    assert losses.total.item() == pytest.approx(-0.5 * score.mean().item())


def test_batches_without_features_and_passes_without_gradients_are_left_alone() -> None:
    transformer = make_transformer(layers=3)
    crepa = Alignment(transformer, settings(), WIDTH, "cpu", seed=3)
    before = plain_loss(torch.ones(()))
    velocity(transformer, Inputs.random(0))
    assert crepa.added_to(before, batch(None)) is before
    with torch.no_grad():
        velocity(transformer, Inputs.random(0))
    with pytest.raises(RuntimeError, match="block 2 has not run"):
        crepa.added_to(before, batch(features()))
    velocity(transformer, Inputs.random(0))
    crepa.remove()
    crepa.added_to(before, batch(features()))
    velocity(transformer, Inputs.random(0))
    with pytest.raises(RuntimeError, match="has not run"):
        crepa.added_to(before, batch(features()))


def test_the_projector_starts_from_its_own_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, same, other = (Projector(64, WIDTH, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.linear.weight, same.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_the_written_projector_loads_back(tmp_path: Path) -> None:
    projector = Projector(64, WIDTH, seed=1)
    path = write_projector(tmp_path, projector, {"crepa_block_index": 8, "teacher": "abc"})
    other = Projector(64, WIDTH, seed=2)
    other.load_state_dict(load_file(path))
    states = torch.randn(3, 64)
    assert torch.equal(projector(states), other(states))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "crepa_block_index": "8", "teacher": "abc"}


def test_a_batch_has_the_features_of_all_of_its_samples_or_is_refused() -> None:
    text = TextFeatures(video=torch.zeros(1, 48), audio=None)
    sample = TrainingSample(torch.zeros(16, FRAMES, 2, 2), None, 0, text, 25.0, teacher=features()[0])
    made = collate(["a", "b"], [sample, sample])
    assert made.teacher is not None
    assert made.teacher.shape == (2, FRAMES, TOKENS, WIDTH)
    assert made.to(torch.device("cpu")).teacher is not None
    with pytest.raises(ValueError, match="only some samples of a batch have the teacher's features"):
        collate(["a", "b"], [sample, replace(sample, teacher=None)])


class SeenSamples:
    """Random clips with the teacher's features, one of them silent, and one sound alone."""

    def __init__(self, seen: bool = True) -> None:
        self._seen = seen

    def entries(self) -> list[Entry]:
        clips = [Entry(f"clip{n}.mp4", "64x64@17", 25.0, n == 0, captions=1) for n in range(2)]
        return [*clips, Entry("tone.wav", "audio@1s", 25.0, True, captions=1, has_video=False)]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        number = ["clip0.mp4", "clip1.mp4", "tone.wav"].index(sample_id)
        draw = torch.Generator().manual_seed(number)
        has_video = number < 2
        return TrainingSample(
            video=torch.randn(16, FRAMES, 2, 2, generator=draw).bfloat16() * has_video,
            audio=None if number == 1 else torch.randn(17, 8, generator=draw).bfloat16(),
            audio_valid=0 if number == 1 else 17,
            features=TextFeatures(video=torch.randn(6, 48, generator=draw).bfloat16(), audio=None),
            fps=25.0,
            has_video=has_video,
            teacher=features()[number] if has_video and self._seen else None,
        )


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def run(
    models_dir: Path, directory: Path, *, crepa: bool = True, seen: bool = True, **hooks: Any
) -> dict[str, torch.Tensor]:
    """Six steps; the adapter's weights."""
    source = prepare_model(ModelSettings(), models_dir)
    transformer = load_transformer(source, torch.float32, "cpu")
    training = TrainingSettings(
        max_train_steps=6, learning_rate=1e-2, lr_warmup_steps=0, mixed_precision="no", seed=4
    )
    recipe = Recipe(lora=LoraSettings(lora_rank=4), training=training)
    keys = settings(crepa_block_index=1, crepa_lambda=1.0)
    aligned = Alignment(transformer, keys, WIDTH, "cpu", training.seed) if crepa else None
    train(
        transformer,
        load_connectors(source, torch.float32, "cpu"),
        SeenSamples(seen),
        recipe,
        directory,
        run_fingerprint="f",
        max_tokens=source.text_max_tokens,
        alignment=aligned,
        **hooks,
    )
    return {name: p.detach().clone() for name, p in lora_parameters(transformer).items()}


def test_a_training_with_crepa_learns_the_alignment_and_resumes_to_the_bit(
    models_dir: Path, tmp_path: Path
) -> None:
    weights = run(models_dir, tmp_path / "straight")
    assert not any(name.startswith("crepa.") for name in weights), "the LoRA is written without the projector"
    steps: list[int] = []
    with pytest.raises(TrainingInterrupted):
        run(
            models_dir,
            tmp_path / "resumed",
            on_step=lambda metrics: steps.append(metrics.step),
            should_stop=lambda: len(steps) == 3,
        )
    run(models_dir, tmp_path / "resumed")
    straight, resumed = latest(tmp_path / "straight"), latest(tmp_path / "resumed")
    assert straight is not None
    assert resumed is not None
    for ours, theirs in (
        (straight.lora, resumed.lora),
        (straight.optimizer.tensors, resumed.optimizer.tensors),
    ):
        assert ours.keys() == theirs.keys()
        assert any(name.startswith("crepa.linear.weight") for name in ours)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    lines = read_metrics(tmp_path / "straight" / "metrics.jsonl")
    aligned = [line for line in lines if line.sample_ids != ("tone.wav",)]
    assert 0 < len(aligned) < len(lines), "both kinds of batch must be there"
    for line in lines:
        assert ("crepa_loss" in line.measures) == (line in aligned)
        assert_adds_up(line.loss, line.parts)
    for line in aligned:
        assert line.weights["crepa_loss"] == 1.0, "crepa_lambda"
    first = aligned[0]
    last = [line for line in aligned if line.sample_ids == first.sample_ids][-1]
    assert last.step > first.step
    assert last.measures["crepa_similarity"] > first.measures["crepa_similarity"] + 0.01


def test_without_crepa_features_change_nothing_and_with_it_they_do(models_dir: Path, tmp_path: Path) -> None:
    plain = run(models_dir, tmp_path / "plain", crepa=False, seen=False)
    ignored = run(models_dir, tmp_path / "ignored", crepa=False)
    aligned = run(models_dir, tmp_path / "aligned")
    assert plain.keys() == ignored.keys() == aligned.keys()
    assert all(torch.equal(plain[name], ignored[name]) for name in plain)
    assert not all(torch.equal(plain[name], aligned[name]) for name in plain)
    checkpoint = latest(tmp_path / "plain")
    assert checkpoint is not None
    assert checkpoint.lora.keys() == plain.keys()
    measured = [line.measures for line in read_metrics(tmp_path / "plain" / "metrics.jsonl")]
    assert not any(name.startswith("crepa") for measures in measured for name in measures)
