"""What is said of diffusers is what diffusers does: each file is really loaded. ComfyUI's rules by cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltxcore.models.lora.header import read_header
from ltxcore.models.lora.loaders import Loading, loadings
from tests.rounding import assert_alike
from tests.unit.models.lora_files import applied, changes, draw, write


def loading_of(file: Path, layer_shapes: dict[str, tuple[int, int]]) -> tuple[Loading, Loading]:
    return loadings(read_header(file), layer_shapes)


STYLES = (
    ("diffusers", None),
    ("diffusers", 2.0),
    ("comfyui", None),
    ("comfyui", 2.0),
    ("bare", None),
    ("default", None),
    ("down", None),
    ("kohya", 2.0),
    ("unmapped", None),
    ("mixed", None),
)


@pytest.mark.parametrize(("style", "alpha"), STYLES)
def test_diffusers_does_what_is_said_of_it(
    lora_base: Path, layer_shapes: dict[str, tuple[int, int]], tmp_path: Path, style: str, alpha: float | None
) -> None:
    pairs = draw(layer_shapes)
    file = write(tmp_path / "x.safetensors", pairs, style, alpha)
    header = read_header(file)
    loading = loading_of(file, layer_shapes)[1]
    if loading.refused:
        with pytest.raises((ValueError, IndexError)):
            applied(lora_base, file)
        return
    unread = {name for name, _ in loading.unread}
    left = {name.module for name in header.names if name.stored in unread}
    expected = changes(pairs, header.scales[0])
    found = applied(lora_base, file)
    assert found.keys() == pairs.keys() - left
    for name, change in found.items():
        assert_alike(change, expected[name], 4 + 2)


@pytest.mark.parametrize(
    ("style", "alpha", "unread", "strength"),
    [
        ("comfyui", None, 0, 1.0),
        ("comfyui", 2.0, 0, 1.0),
        ("bare", 2.0, 0, 1.0),
        ("kohya", 2.0, 0, 1.0),
        ("down", None, 0, 1.0),
        ("diffusers", None, 6, 1.0),
        ("diffusers", 2.0, 6, 2.0),
        ("unmapped", None, 2, 1.0),
        ("mixed", None, 4, 1.0),
    ],
)
def test_comfyui_reads_the_references_names_and_alpha_tensors(
    layer_shapes: dict[str, tuple[int, int]],
    tmp_path: Path,
    style: str,
    alpha: float | None,
    unread: int,
    strength: float,
) -> None:
    loading = loading_of(write(tmp_path / "x.safetensors", draw(layer_shapes), style, alpha), layer_shapes)[0]
    assert not loading.refused
    assert len(loading.unread) == unread
    assert loading.strength == (strength,)
    assert loading.whole == (not unread)


def test_what_comfyui_calls_a_layer_is_said(layer_shapes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    loading = loading_of(write(tmp_path / "x.safetensors", draw(layer_shapes), "unmapped"), layer_shapes)[0]
    assert {why for _, why in loading.unread} == {"ComfyUI calls this layer audio_patchify_proj"}


def test_layers_that_a_version_lacks_are_left_out_by_both(
    lora_base: Path, layer_shapes: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    file = write(tmp_path / "x.safetensors", draw(layer_shapes), "comfyui")
    tensors = load_file(file)
    ours = "diffusion_model.transformer_blocks.7.attn1.to_q"
    tensors |= {f"{ours}.lora_A.weight": torch.ones(4, 64), f"{ours}.lora_B.weight": torch.ones(64, 4)}
    save_file(tensors, file)
    for loading in loading_of(file, layer_shapes):
        assert [name for name, _ in loading.unread] == [f"{ours}.lora_A.weight", f"{ours}.lora_B.weight"]
    assert "transformer_blocks.7.attn1.to_q" not in applied(lora_base, file)


def test_a_dora_and_a_lokr_go_where_they_are_read(
    layer_shapes: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    layer = "transformer_blocks.0.attn1.to_q"
    ours, theirs = f"transformer.{layer}", f"diffusion_model.{layer}"
    pair = draw(layer_shapes, [layer])[layer]
    both = {"lora_A.weight": pair[0], "lora_B.weight": pair[1]}
    width = layer_shapes[layer][0]
    files = {
        "peft": {f"{ours}.{n}": t for n, t in both.items()}
        | {f"{ours}.lora_magnitude_vector": torch.ones(width)},
        "comfy": {f"{theirs}.{n}": t for n, t in both.items()}
        | {f"{theirs}.dora_scale": torch.ones(width, 1)},
        "lokr": {
            f"{theirs}.lokr_w1": torch.ones(2, 2),
            f"{theirs}.lokr_w2": torch.ones(width // 2, width // 2),
        },
    }
    whole = {}
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        whole[name] = [
            loading.whole for loading in loading_of(tmp_path / f"{name}.safetensors", layer_shapes)
        ]
    assert whole == {"peft": [False, True], "comfy": [True, False], "lokr": [True, False]}
    assert loading_of(tmp_path / "lokr.safetensors", layer_shapes)[1].refused
