"""Weights quantised on the way in: what they are, that they are kept, and that a LoRA trains on them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.config.weight_precisions import PRECISIONS
from ltxcore.models.errors import ModelError
from ltxcore.models.files.assembling import place, replace_linears
from ltxcore.models.files.loading import load_text_model, load_transformer
from ltxcore.models.files.precisions import quantised_names
from ltxcore.models.files.quantise import quantiser_of
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.models.versions import VERSIONS
from ltxcore.training.adapters import take_adapter
from ltxcore.training.export import Lineage, export_lora
from ltxcore.training.lora import add_lora, lora_parameters, target_modules
from ltxcore.validation.components import load_components
from ltxcore.validation.render import Renderer
from ltxcore.validation.rendering_settings import render_settings


@pytest.fixture(scope="module")
def tiny(tinies: dict[str, ModelSource]) -> Path:
    return tinies["2.0"].root.parent


def _source(root: Path, models_dir: Path, precision: str = "no_change", version: str = "2.0") -> ModelSource:
    settings = ModelSettings(
        pretrained_model_name_or_path=str(root / version),
        base_model_precision=precision,  # type: ignore[arg-type]
        text_encoder_1_precision=precision,  # type: ignore[arg-type]
    )
    return resolve_model(settings, models_dir)


def _inner(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("precision", ["int8-quanto", "int4-quanto", "fp8-quanto"])
@pytest.mark.parametrize(
    ("load", "version"), [(load_transformer, "2.0"), (load_text_model, "2.0"), (load_text_model, "2.5")]
)
def test_the_first_load_quantises_and_the_second_reads_the_same(
    tiny: Path, tmp_path: Path, precision: str, load: Any, version: str
) -> None:
    from optimum.quanto import QLinear, QTensor

    source = _source(tiny, tmp_path, precision, version)
    component = "transformer" if load is load_transformer else "text_encoder"
    first = load(source, torch.bfloat16, "cpu")
    (kept,) = (tmp_path / "quantised").glob("*.safetensors")
    assert kept.name.startswith(component)
    written = kept.stat().st_mtime_ns
    second = load(source, torch.bfloat16, "cpu")
    assert kept.stat().st_mtime_ns == written
    ours, theirs = _inner(first), _inner(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in quantised_names(component, source.shapes(component)):
        for model in (first, second):
            linear = model.get_submodule(name.removesuffix(".weight"))
            assert isinstance(linear, QLinear)
            assert isinstance(linear.weight, QTensor)
    assert not any(p.requires_grad for model in (first, second) for p in model.parameters())
    assert source.fingerprint(component) != _source(tiny, tmp_path, version=version).fingerprint(component)
    assert source.fingerprint("vae") == _source(tiny, tmp_path, version=version).fingerprint("vae")


def test_it_is_what_loading_and_then_quantising_gives(tiny: Path, tmp_path: Path) -> None:
    from optimum.quanto import freeze, qint8, quantize

    for version in VERSIONS:
        source = _source(tiny, tmp_path, "int8-quanto", version)
        mine = load_transformer(source, torch.bfloat16, "cpu")
        whole = load_transformer(_source(tiny, tmp_path, version=version), torch.bfloat16, "cpu")
        quantize(whole, weights=qint8, include="transformer_blocks.*", exclude="*to_gate_logits")
        freeze(whole)
        ours, theirs = _inner(mine), _inner(whole)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_it_takes_is_what_was_planned(tiny: Path, tmp_path: Path) -> None:
    for precision in ("no_change", "int8-quanto", "int4-quanto", "fp8-quanto"):
        source = _source(tiny, tmp_path, precision)
        model = load_transformer(source, torch.bfloat16, "cpu")
        # The two scales of activations that quanto keeps in each linear are not worth counting.
        held = {
            n: t for n, t in model.state_dict().items() if not n.endswith(("input_scale", "output_scale"))
        }
        size = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
        assert source.resident_bytes("transformer", 2) == pytest.approx(size, rel=0.01), precision


@pytest.mark.parametrize("precision", ["int8-quanto", "fp8-quanto"])
def test_a_lora_trains_on_it_in_bf16_and_renders_with_it(tiny: Path, tmp_path: Path, precision: str) -> None:
    source = _source(tiny, tmp_path, precision)
    transformer = load_transformer(source, torch.bfloat16, "cpu")
    before = transformer.transformer_blocks[0].attn1.to_q.weight.dequantize()
    settings = LoraSettings(lora_rank=4)
    add_lora(transformer, settings, target_modules(transformer, True), seed=0)
    transformer.train()
    transformer.enable_gradient_checkpointing()
    modulation = install_cross_modulation(transformer)
    parameters = lora_parameters(transformer)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(transformer)
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters.values())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    modulation.remove()
    base_layer = transformer.transformer_blocks[0].attn1.to_q.base_layer
    assert torch.equal(base_layer.weight.dequantize(), before), "the base is frozen"
    lineage = Lineage("base", "snapshot", Recipe(lora=settings))
    file, _ = export_lora(tmp_path / "lora", "x", take_adapter(transformer, parameters), lineage)
    assert len(load_file(file)) == len(parameters)

    plan = render_settings(
        ValidationSettings(
            validation_resolution="64x64",
            validation_num_video_frames=9,
            validation_frame_rate=50.0,
            validation_num_inference_steps=2,
            validation_guidance=1.0,
        )
    )
    renderer = Renderer(load_components(source, torch.bfloat16, "cpu"), plan)
    features = TextFeatures(torch.randn(5, 48, generator=torch.Generator().manual_seed(0)).bfloat16())
    plain = renderer.render("a", features).frames
    with renderer.adapter(file):
        adapted = renderer.render("a", features).frames
    assert (plain != adapted).any()
    assert (renderer.render("a", features).frames == plain).all()


def _loss(transformer: Any) -> torch.Tensor:
    """How far the model is from saying nothing, on a fixed input."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    half = torch.tensor([0.5])
    video, audio = predict_velocity(
        transformer,
        video=noise(1, 16, 2, 2, 2),
        audio=noise(1, 5, 8),
        video_times=half,
        audio_times=half,
        video_sigma=half,
        audio_sigma=half,
        video_embeds=noise(1, 16, 48),
        audio_embeds=noise(1, 16, 48),
        fps=25.0,
    )
    assert audio is not None
    return video.float().square().mean() + audio.float().square().mean()


def test_damaged_kept_weights_say_that_they_may_be_deleted(tiny: Path, tmp_path: Path) -> None:
    source = _source(tiny, tmp_path, "int8-quanto")
    load_transformer(source, torch.bfloat16, "cpu")
    (kept,) = (tmp_path / "quantised").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-9])
    with pytest.raises(ModelError, match="are damaged; delete the file, and it is made anew"):
        load_transformer(source, torch.bfloat16, "cpu")
    kept.unlink()
    load_transformer(source, torch.bfloat16, "cpu")


@pytest.mark.parametrize("precision", ["int8-torchao", "fp8-torchao", "nf4-bnb"])
def test_a_library_of_an_extra_works_or_says_how_to_install_it(
    tiny: Path, tmp_path: Path, precision: str
) -> None:
    library = PRECISIONS[precision].library
    if importlib.util.find_spec(library) is None:
        with pytest.raises(
            ModelError, match=rf"not installed; run `pip install 'ltx2-flows\[{library}\]'`, or"
        ):
            _source(tiny, tmp_path, precision)
        return
    # Wide enough for every library's CPU kernels, which the tiny model's streams of sound are not.
    model = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 8)).bfloat16()
    values = torch.randn(5, 128, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    wanted = model(values).detach()
    weight, bias = model[0].weight.detach().clone(), model[0].bias
    quantiser = quantiser_of(PRECISIONS[precision])
    model[0].to("meta")
    replace_linears(model, quantiser, frozenset({"0.weight"}), torch.bfloat16, torch.device("cpu"))
    quantiser.fill(model[0], weight)
    place(model, "0.bias", bias.detach())
    found = model(values)
    assert (found - wanted).abs().mean() < 0.1 * wanted.abs().mean()
    found.sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


def test_an_unknown_precision_lists_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"base_model_precision: input should be 'no_change', 'int8-quanto'.*'nf4-bnb'"
    ):
        parse(ModelSettings, {"base_model_precision": "int9"}, "recipe.yaml")


@pytest.mark.parametrize("precision", ["int8-quanto", "fp8-quanto", "int4-quanto"])
def test_a_frozen_quantised_linear_keeps_its_weight_and_not_its_input(precision: str) -> None:
    torch.manual_seed(0)
    quantiser, linear = quantiser_of(PRECISIONS[precision]), nn.Linear(256, 128).bfloat16()
    module: Any = quantiser.prepare(linear.to("meta"), torch.bfloat16, torch.device("cpu"))
    quantiser.fill(module, torch.randn(128, 256).bfloat16())
    module.bias = nn.Parameter(torch.randn(128).bfloat16(), requires_grad=False)
    x = torch.randn(3, 64, 256).bfloat16().requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        out = module(x)
    assert all(tensor.shape == module.weight.shape for tensor in kept)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    del module.forward
    quantos = module(x)
    (expected,) = torch.autograd.grad(quantos.sum(), x)
    assert torch.equal(out, quantos)
    assert torch.equal(gradient, expected)
