"""The LoRA's own arithmetic: peft's bits in float32, within bf16's rounding of the exact sums below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.training import adapters
from ltxcore.training.lean_block import rotate
from ltxcore.training.lora import lora_parameters
from tests.rounding import bound
from tests.unit.toy_transformer import Trained, make_transformer, train

SETTINGS = {
    "plain": LoraSettings(lora_rank=4),
    "scaled": LoraSettings(lora_rank=4, lora_alpha=3),
    "dropout": LoraSettings(lora_rank=4, lora_dropout=0.1),
    "dora": LoraSettings(lora_rank=4, use_dora=True),
    "lokr": LoraSettings.model_validate(
        {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr", "factor": 4, "linear_dim": 4}}
    ),
}


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("config", [{}, {"perturbed_attn": True, "gated_attn": True}], ids=["2.0", "2.3"])
def test_float32_training_is_pefts_and_diffusers_to_the_bit(
    kind: str, recomputed: bool, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> Trained:
        transformer = make_transformer(2, **config)
        if recomputed:
            transformer.enable_gradient_checkpointing()
        return train(transformer, steps=2, settings=SETTINGS[kind])

    ours = trained()
    monkeypatch.setattr(adapters, "replace_forward", lambda transformer, name: None)
    monkeypatch.setattr(adapters, "lean_blocks", lambda transformer: None)
    ours.assert_equal(trained())


@pytest.mark.parametrize("kind", ["dora", "lokr"])
def test_inputs_that_are_not_cast_twice_change_no_bit_of_the_other_kinds(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "lean_blocks", lambda transformer: None)
    ours = train(make_transformer(2, torch.bfloat16), steps=1, dtype=torch.bfloat16, settings=SETTINGS[kind])
    monkeypatch.setattr(adapters, "replace_forward", lambda transformer, name: None)
    theirs = train(
        make_transformer(2, torch.bfloat16), steps=1, dtype=torch.bfloat16, settings=SETTINGS[kind]
    )
    ours.assert_equal(theirs)


class Attention(nn.Module):
    """Three linears of one input, named as an attention's."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1 = nn.ModuleDict({name: nn.Linear(96, 64) for name in ("to_q", "to_k", "to_v")})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(x) for layer in self.attn1.values()], -1)


class Model(nn.Module):
    """A block that peft can adapt as it adapts the transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Attention()])

    def add_adapter(self, config: Any, adapter_name: str) -> None:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, self, adapter_name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.transformer_blocks[0](x)
        return found


TARGETS = [f"transformer_blocks.0.attn1.{name}" for name in ("to_q", "to_k", "to_v")]
Gradients = dict[str, torch.Tensor]


def gradients(alpha: float, dtype: torch.dtype, *, ours: bool) -> Gradients:
    """Of the output, the input and every factor, on equal values, computed in a type."""
    torch.manual_seed(3)
    model = Model().requires_grad_(False)
    adapters.inject(model, LoraSettings(lora_rank=8, lora_alpha=alpha), TARGETS)
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape) / 10
        # Of every type the same values, and none that bf16 has not.
        parameter.data = value.bfloat16().to(torch.float32 if "lora" in name else dtype)
        if dtype is torch.float64:
            parameter.data = parameter.data.double()
    if not ours:
        for module in model.modules():
            module.__dict__.pop("forward", None)
    x = torch.randn(2, 40, 96).bfloat16().to(dtype).requires_grad_()
    upstream = torch.randn(2, 40, 192).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        out = model(x)
    out.backward(upstream.to(out.dtype))
    assert x.grad is not None
    found = {"out": out.detach(), "x": x.grad}
    return found | {n: p.grad for n, p in lora_parameters(model).items() if p.grad is not None}


@pytest.mark.parametrize("alpha", [8, 3])
def test_bf16_is_within_its_rounding_of_the_exact_sums(alpha: float) -> None:
    exact = gradients(alpha, torch.float64, ours=False)
    ours, pefts = (gradients(alpha, torch.bfloat16, ours=mine) for mine in (True, False))
    assert ours.keys() == exact.keys() == pefts.keys()
    assert len(ours) == 2 + 6
    error = {n: float((ours[n].double() - exact[n]).abs().max()) for n in exact}
    # The roundings to bf16 on the way to each value, not the terms of the float32 sums between them.
    assert all(error[n] <= bound(4, float(exact[n].abs().max()), torch.bfloat16) for n in exact), error
    # One rounding less on the way to the output, and two to the input's gradient.
    assert all((ours[n] - exact[n]).norm() <= (pefts[n] - exact[n]).norm() for n in ("out", "x"))


def test_a_product_that_is_shared_is_never_of_another_input_or_of_earlier_factors() -> None:
    torch.manual_seed(0)
    model = Model().requires_grad_(False).bfloat16()
    adapters.inject(model, LoraSettings(lora_rank=8), TARGETS)
    parameters = lora_parameters(model)
    for parameter in parameters.values():
        parameter.data = torch.randn(parameter.shape)
    x, layers = torch.randn(1, 6, 96).bfloat16(), model.transformer_blocks[0].attn1

    def run(work: Callable[[], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return work()

    whole = run(lambda: model(x))
    # The first layer alone leaves two products behind; then the factors change under the same input.
    run(lambda: layers["to_q"](x))
    for parameter in parameters.values():
        parameter.data.mul_(-1)
    assert torch.equal(run(lambda: model(x)), whole), "(-B)(-A) is BA"
    for name, parameter in parameters.items():
        if "lora_A" in name:
            parameter.data.mul_(2)
    assert not torch.equal(run(lambda: model(x)), whole)
    assert not torch.equal(run(lambda: model(x + 1)), run(lambda: model(x)))


def test_layers_of_one_input_keep_it_once_and_the_base_keeps_none() -> None:
    model = Model().requires_grad_(False)
    adapters.inject(model.bfloat16(), LoraSettings(lora_rank=8), TARGETS)
    for parameter in lora_parameters(model).values():
        parameter.data = parameter.data.float()
    x = torch.randn(64, 96).bfloat16().requires_grad_()
    kept = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (64,) and tensor.shape[-1] in (96, 64):
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert kept == {x.untyped_storage().data_ptr()}


def test_a_rotation_turns_back() -> None:
    x, angle = torch.randn(2, 5, 4 * 6), torch.randn(2, 4, 5, 3)
    cos, sin = angle.cos(), angle.sin()
    there = rotate(x, cos, sin)
    torch.testing.assert_close(rotate(there, cos, -sin), x)
    torch.testing.assert_close(there.norm(), x.norm())
    turned = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rotate(turned, cos, sin), turned, there)
    torch.testing.assert_close(gradient, x, msg="the gradient of a rotation is the rotation back")
