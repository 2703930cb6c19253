"""A step hands everything to the device before it asks for a number, and its noise is drawn beforehand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.files.loading import load_connectors, load_transformer
from ltxcore.models.files.source import resolve_model
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.training.data import Batch, collate
from ltxcore.training.lora import add_lora, target_modules
from ltxcore.training.objective import Losses
from ltxcore.training.step import DrawnBatch, StepLosses, Unread, batch_losses
from tests.unit.training.test_loop import RandomSamples

CPU = torch.device("cpu")
RECIPE = Recipe(
    lora=LoraSettings(lora_rank=2),
    training=TrainingSettings(mixed_precision="no", ltx2_first_frame_conditioning_probability=0.5),
)


class Waits(TorchDispatchMode):
    """Counts the times that a number is asked of a tensor, for which a device finishes all it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def two_clips() -> Batch:
    samples = RandomSamples()
    ids = [entry.sample_id for entry in samples.entries()]
    return collate(ids, [samples.load(name, 0) for name in ids])


def test_forward_and_backward_ask_the_device_for_nothing(tiny_models: Path) -> None:
    source = resolve_model(ModelSettings(), tiny_models)
    transformer = load_transformer(source, torch.float32, CPU)
    connectors = load_connectors(source, torch.float32, CPU)
    add_lora(transformer, RECIPE.lora, target_modules(transformer, True), 0)
    install_cross_modulation(transformer)
    drawn = DrawnBatch.of(two_clips(), RECIPE, 0, CPU).to(CPU)
    with Waits() as waits:
        found = batch_losses(transformer, connectors, drawn, RECIPE, 0, 16)
        found.total.backward()
        unread = Unread.of(0, drawn.batch, found)
    assert waits.count == 0
    with Waits() as waits:
        assert found.total.item() > 0
    assert waits.count == 1, "asking is seen"

    read = StepLosses.read(1, [unread, unread])
    assert read.total == found.total.item()
    assert read.video == found.video.item()
    bands = [name for name in read.measures if name.startswith("video_loss_sigma")]
    assert len(bands) in (1, 2), "two clips are in two of four bands at most"
    assert not any(value.requires_grad for value in unread.values())


def test_the_noise_of_a_batch_is_its_own_wherever_it_is_drawn() -> None:
    first, again, other = (DrawnBatch.of(two_clips(), RECIPE, number, CPU) for number in (3, 3, 4))
    assert torch.equal(first.noised.video.tokens, again.noised.video.tokens)
    assert not torch.equal(first.noised.video.tokens, other.noised.video.tokens)
    moved = first.to(torch.device("meta"))
    assert moved.noised.video.target.is_meta
    assert moved.noised.audio is not None
    assert moved.noised.audio.mask.is_meta
    assert moved.batch.video.is_meta


def test_a_loss_that_is_no_number_is_read_as_such_and_an_empty_band_is_left_out() -> None:
    batch = two_clips()
    broken = Losses(torch.tensor(math.nan), torch.tensor(1.0), None, {"empty": torch.tensor(math.nan)}, {})
    (read,) = StepLosses.read(1, [Unread.of(0, batch, broken)]).batches
    assert math.isnan(read.total)
    assert (read.video, read.audio, read.measures) == (1.0, None, {})
