"""An adapter that begins with a LoRA file changes the model by what the file does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.models.lora.header import AdapterError, read_header
from ltxcore.training.first_lora import take_over
from ltxcore.training.lora import add_lora, lora_parameters
from tests.rounding import assert_alike
from tests.unit.models.lora_files import LAYERS, changes, draw, write
from tests.unit.training.test_lora import answer, load_transformer

Shapes = dict[str, tuple[int, int]]


def begun(
    lora_base: Path, file: Path, **settings: object
) -> tuple[torch.nn.Module, dict[str, torch.Tensor], str]:
    """A transformer whose fresh adapter took a file over, the adapter, and the sentence on it."""
    transformer = load_transformer(lora_base)
    lora = LoraSettings(**settings)  # type: ignore[arg-type]
    add_lora(transformer, lora, [*LAYERS, "audio_proj_out"], seed=0)
    parameters = lora_parameters(transformer)
    sentence = take_over(transformer, parameters, lora, read_header(file))
    return transformer, {name: p.detach() for name, p in parameters.items()}, sentence


def change(adapter: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    return {
        name: scale * (adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]) for name in LAYERS
    }


def test_equal_rank_and_scale_are_taken_to_the_bit(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path
) -> None:
    pairs = draw(layer_shapes)
    file = write(tmp_path / "x.safetensors", pairs, "kohya", alpha=2.0)
    _, adapter, sentence = begun(lora_base, file, lora_rank=4, lora_alpha=2.0)
    for name, (a, b) in pairs.items():
        assert torch.equal(adapter[f"{name}.lora_A.weight"], a)
        assert torch.equal(adapter[f"{name}.lora_B.weight"], b)
    assert not adapter["audio_proj_out.lora_B.weight"].any(), "what the file lacks begins as always"
    assert sentence == "begins with x.safetensors: 3 layers of rank 4, as they are"


@pytest.mark.parametrize("style", ["diffusers", "comfyui", "bare", "kohya"])
@pytest.mark.parametrize(
    "settings",
    [
        {"lora_rank": 4, "lora_alpha": 8.0},
        {"lora_rank": 9},
        {"lora_rank": 9, "lora_alpha": 3.0, "use_rslora": True},
    ],
)
def test_every_naming_alpha_and_larger_rank_gives_the_same_change(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path, style: str, settings: dict[str, object]
) -> None:
    pairs = draw(layer_shapes)
    file = write(tmp_path / "x.safetensors", pairs, style, alpha=2.0)
    _, adapter, _ = begun(lora_base, file, **settings)
    found = change(adapter, LoraSettings(**settings).scale)  # type: ignore[arg-type]
    for name, expected in changes(pairs, 0.5).items():
        assert_alike(found[name], expected, 9 + 2)


def test_a_larger_file_is_taken_as_nearly_as_it_says(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = draw(layer_shapes, rank=8)
    file = write(tmp_path / "x.safetensors", pairs)
    with caplog.at_level(logging.INFO):
        _, adapter, sentence = begun(lora_base, file, lora_rank=4)
    assert sentence in caplog.text
    found, expected = change(adapter, 1.0), changes(pairs)
    left = sum(float((found[name] - expected[name]).square().sum()) for name in LAYERS)
    whole = sum(float(expected[name].square().sum()) for name in LAYERS)
    assert f"relative error of {(left / whole) ** 0.5:.2%}" in sentence


def test_a_dora_begins_with_its_lengths_and_a_lora_keeps_its_change_in_one(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path
) -> None:
    pairs = draw(layer_shapes)
    plain, _, _ = begun(lora_base, write(tmp_path / "x.safetensors", pairs), lora_rank=4)
    dora, _, _ = begun(lora_base, tmp_path / "x.safetensors", lora_rank=4, use_dora=True)
    base = load_transformer(lora_base)
    effect = (answer(plain) - answer(base)).norm()
    assert (answer(dora) - answer(plain)).norm() < 1e-3 * effect
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"transformer.{name}.lora_A.weight"], tensors[f"transformer.{name}.lora_B.weight"] = a, b
        tensors[f"transformer.{name}.lora_magnitude_vector"] = torch.rand(layer_shapes[name][0])
    save_file(tensors, tmp_path / "dora.safetensors")
    _, adapter, _ = begun(lora_base, tmp_path / "dora.safetensors", lora_rank=4, use_dora=True)
    for name in LAYERS:
        lengths = tensors[f"transformer.{name}.lora_magnitude_vector"]
        assert torch.equal(adapter[f"{name}.lora_magnitude_vector.weight"], lengths)


def test_a_layer_that_is_not_trained_is_not_dropped(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path
) -> None:
    layers = [*LAYERS, "transformer_blocks.0.ff.net.2"]
    file = write(tmp_path / "x.safetensors", draw(layer_shapes, layers))
    with pytest.raises(AdapterError, match=r"changes transformer_blocks\.0\.ff\.net\.2, which this training"):
        begun(lora_base, file)
