"""LoRA targets, initial weights, and the exported files as the real pipeline reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.models.files.source import ModelSource
from ltxcore.models.versions import VERSIONS
from ltxcore.training.adapters import take_adapter
from ltxcore.training.export import Lineage, export_lora
from ltxcore.training.lora import (
    add_lora,
    load_weights,
    lora_parameters,
    target_modules,
)
from ltxcore.training.targets import UnknownTarget
from tests.rounding import bound, terms_of


@pytest.fixture(scope="module")
def tiny(tinies: dict[str, ModelSource]) -> dict[str, Path]:
    return {version: source.root for version, source in tinies.items()}


def load_transformer(model: Path, dtype: torch.dtype = torch.float32) -> Any:
    from diffusers import LTX2VideoTransformer3DModel

    return LTX2VideoTransformer3DModel.from_pretrained(model / "transformer", torch_dtype=dtype)


@torch.no_grad()
def answer(transformer: Any) -> torch.Tensor:
    """What the transformer says to a fixed input, both modalities in one row."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    config = transformer.config
    wide = config.caption_channels if config.use_prompt_embeddings else config.cross_attention_dim
    narrow = config.caption_channels if config.use_prompt_embeddings else config.audio_cross_attention_dim
    return torch.cat(
        [
            out.flatten()
            for out in transformer(
                hidden_states=noise(1, 8, config.in_channels),
                audio_hidden_states=noise(1, 5, config.audio_in_channels),
                encoder_hidden_states=noise(1, 16, wide),
                audio_encoder_hidden_states=noise(1, 16, narrow),
                timestep=torch.tensor([500.0]),
                audio_timestep=torch.tensor([300.0]),
                sigma=torch.tensor([500.0]),
                audio_sigma=torch.tensor([300.0]),
                num_frames=2,
                height=2,
                width=2,
                fps=25.0,
                audio_num_frames=5,
                return_dict=False,
            )
        ]
    )


def test_the_default_targets_are_the_documented_ones(tiny: dict[str, Path]) -> None:
    transformer = load_transformer(tiny["2.0"])
    with_audio = target_modules(transformer, with_audio=True)
    assert len(with_audio) == 56
    assert {"audio_proj_in", "audio_proj_out", "audio_caption_projection.linear_2"} <= set(with_audio)
    silent = target_modules(transformer, with_audio=False)
    assert len(silent) == 16
    assert all(".attn1." in name or ".attn2." in name for name in silent)


def test_sound_alone_trains_the_sounds_own_modules(tiny: dict[str, Path]) -> None:
    alone = target_modules(load_transformer(tiny["2.0"]), with_audio=True, with_video=False)
    # 2 layers x (2 attentions x 4 + feed-forward 2), the ways in and out, and two caption projections.
    assert len(alone) == 24
    layers = [name.removeprefix("transformer_blocks.").lstrip("01.") for name in alone]
    assert all(layer.startswith("audio_") and not layer.startswith("audio_to_video") for layer in layers)


def test_a_version_without_caption_projection_has_four_less(tiny: dict[str, Path]) -> None:
    targets = target_modules(load_transformer(tiny["2.3"]), with_audio=True)
    assert len(targets) == 54
    assert not any("caption_projection" in name for name in targets)


def test_the_recipes_own_targets_count_whole_parts(tiny: dict[str, Path]) -> None:
    transformer = load_transformer(tiny["2.0"])
    chosen = target_modules(transformer, with_audio=True, suffixes=["ff.net.2", "attn1.to_q"])
    assert chosen == tuple(
        f"transformer_blocks.{n}.{name}" for n in range(2) for name in ("attn1.to_q", "ff.net.2")
    )


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ("to_qq", "did you mean `to_q`"),
        ("audio_f.net.2", "did you mean `audio_ff.net.2`"),
        ("attn1", "attn1.to_"),
    ],
)
def test_an_unknown_target_names_the_nearest(tiny: dict[str, Path], wrong: str, advice: str) -> None:
    with pytest.raises(UnknownTarget, match=advice):
        target_modules(load_transformer(tiny["2.0"]), with_audio=True, suffixes=["to_k", wrong])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_is_float32_and_changes_nothing(tiny: dict[str, Path], dtype: torch.dtype) -> None:
    transformer = load_transformer(tiny["2.0"], dtype)
    adapted = load_transformer(tiny["2.0"], dtype)
    add_lora(adapted, LoraSettings(lora_rank=4), target_modules(adapted, True), seed=0)
    parameters = lora_parameters(adapted)
    assert len(parameters) == 112
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert {p.dtype for n, p in adapted.named_parameters() if not p.requires_grad} == {dtype}
    if dtype == torch.float32:
        assert torch.equal(answer(adapted), answer(transformer))


def test_initial_weights_belong_to_seed_and_layer_and_not_to_the_global_generator(
    tiny: dict[str, Path],
) -> None:
    def fresh(seed: int, suffixes: list[str]) -> dict[str, torch.Tensor]:
        transformer = load_transformer(tiny["2.0"])
        torch.rand(7)
        add_lora(transformer, LoraSettings(), target_modules(transformer, True, suffixes), seed)
        return {name: p.detach() for name, p in lora_parameters(transformer).items()}

    few, many, other = fresh(0, ["to_q"]), fresh(0, ["to_k", "to_q"]), fresh(1, ["to_q"])
    assert all(torch.equal(few[name], many[name]) for name in few)
    first = "transformer_blocks.0.attn1.to_q.lora_A.weight"
    assert not torch.equal(few[first], other[first])


def test_weights_of_another_adapter_are_refused(tiny: dict[str, Path]) -> None:
    transformer = load_transformer(tiny["2.0"])
    add_lora(transformer, LoraSettings(lora_rank=4), target_modules(transformer, False), seed=0)
    weights = {name: p.detach().clone() for name, p in lora_parameters(transformer).items()}
    load_weights(lora_parameters(transformer), weights)
    name, tensor = weights.popitem()
    with pytest.raises(ValueError, match=r"found None, expected"):
        load_weights(lora_parameters(transformer), weights)
    with pytest.raises(ValueError, match="belong to another adapter"):
        load_weights(lora_parameters(transformer), {**weights, name: tensor[:1]})


def all_linears(transformer: Any) -> list[str]:
    return [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("everything", [False, True])
def test_both_files_load_back_with_equal_output(
    tiny: dict[str, Path], tmp_path: Path, version: str, everything: bool
) -> None:
    from diffusers import LTX2Pipeline

    transformer = load_transformer(tiny[version])
    plain = answer(transformer)
    suffixes = all_linears(transformer) if everything else None
    recipe = Recipe(lora=LoraSettings(lora_rank=4, lora_alpha=6.0))
    add_lora(transformer, recipe.lora, target_modules(transformer, True, suffixes), seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in lora_parameters(transformer).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    trained = answer(transformer)

    adapter = take_adapter(transformer, lora_parameters(transformer))
    files = export_lora(tmp_path, "cats", adapter, Lineage("base", "snapshot", recipe))
    assert [f.name for f in files] == ["pytorch_lora_weights.safetensors", "cats_comfyui.safetensors"]
    # The first holds the weights to the bit; where tensors lie in memory decides how sums are rounded.
    exact = bound(terms_of(transformer), float(trained.abs().max()))
    for file, tolerance in zip(files, (0.0, 0.02), strict=True):
        pipeline = LTX2Pipeline.from_pretrained(tiny[version])
        pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
        loaded = answer(pipeline.transformer)
        expected_layers = len(lora_parameters(transformer)) // 2
        assert sum(".lora_A." in key for key in pipeline.transformer.state_dict()) == expected_layers
        change = (trained - plain).abs().max()
        assert (loaded - trained).abs().max() <= exact + tolerance * change


def test_comfyui_names_are_the_references_and_alpha_is_in_b(tiny: dict[str, Path], tmp_path: Path) -> None:
    transformer = load_transformer(tiny["2.0"])
    recipe = Recipe(lora=LoraSettings(lora_rank=4, lora_alpha=8.0))
    suffixes = [
        "to_q",
        "audio_proj_in",
        "proj_in",
        "audio_time_embed.linear",
        "audio_caption_projection.linear_1",
    ]
    add_lora(transformer, recipe.lora, target_modules(transformer, True, suffixes), seed=0)
    weights = lora_parameters(transformer)
    for parameter in weights.values():
        parameter.data.fill_(0.5)
    lineage = Lineage("base", "snapshot", recipe, trigger="a zork")
    diffusers_file, comfyui_file = export_lora(tmp_path, "x", take_adapter(transformer, weights), lineage)

    with safe_open(comfyui_file, framework="pt") as file:
        names, header = set(file.keys()), file.metadata()
        tensors = {name: file.get_tensor(name) for name in names}
    for module in (
        "audio_patchify_proj",
        "patchify_proj",
        "audio_adaln_single.linear",
        "audio_caption_projection.linear_1",
        "transformer_blocks.1.audio_to_video_attn.to_q",
    ):
        assert f"diffusion_model.{module}.lora_A.weight" in names
        assert (tensors[f"diffusion_model.{module}.lora_B.weight"] == 1.0).all()
        assert (tensors[f"diffusion_model.{module}.lora_A.weight"] == 0.5).all()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert (header["rank"], header["alpha"], header["trained_alpha"]) == ("4", "4.0", "8.0")

    with safe_open(diffusers_file, framework="pt") as file:
        assert {key.split(".")[0] for key in file.keys()} == {"transformer"}  # noqa: SIM118
        header = file.metadata()
    assert (header["base_fingerprint"], header["snapshot_id"], header["trigger"]) == (
        "base",
        "snapshot",
        "a zork",
    )
    assert Recipe.model_validate_json(header["recipe"]) == recipe
    assert json.loads(header["lora_adapter_metadata"])["transformer.lora_alpha"] == 8.0
