"""Optimizers, their state, clipping, schedules and averages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.training.adamw_bf16 import AdamWBf16, stochastic_round
from ltxcore.training.checkpoints import read_checkpoint, write_checkpoint
from ltxcore.training.ema import Ema
from ltxcore.training.extras import OptimizerMissing
from ltxcore.training.optimizer import clip_gradients, make_optimizer, make_scheduler
from ltxcore.training.state import TrainingState
from tests.rounding import assert_alike

CPU = torch.device("cpu")
SHAPES = {"a.lora_A.weight": (4, 24), "a.lora_B.weight": (32, 4), "unreached": (2, 2)}


def settings(**keys: object) -> TrainingSettings:
    return TrainingSettings(**{"max_train_steps": 100, "learning_rate": 1e-2, **keys})  # type: ignore[arg-type]


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for name, shape in SHAPES.items()
    }


def feel(values: dict[str, nn.Parameter], step: int) -> None:
    """Gradients of their own for every step; one parameter never has any."""
    draw = torch.Generator().manual_seed(100 + step)
    for name, parameter in values.items():
        if name != "unreached":
            gradient = torch.randn(parameter.shape, generator=draw) + parameter.detach().float()
            parameter.grad = gradient.to(parameter.dtype)


# --- adamw_bf16 ---


def constants(**more: Any) -> dict[str, Any]:
    return {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, **more}


def descend(dtype: torch.dtype, make: Any, steps: int = 400) -> torch.Tensor:
    """Weights near one that are pulled to nought by noisy gradients, in steps far below bf16's spacing."""
    weight = nn.Parameter(torch.ones(4096, dtype=dtype))
    optimizer = make([weight])
    draw = torch.Generator().manual_seed(3)
    for _ in range(steps):
        weight.grad = (1 + torch.randn(4096, generator=draw)).to(dtype)
        optimizer.step()
    return weight.detach().float()


def test_bf16_weights_follow_float32_ones_and_rounding_to_the_nearest_does_not() -> None:
    exact = descend(torch.float32, lambda p: torch.optim.AdamW(p, **constants()))
    ours = descend(torch.bfloat16, lambda p: AdamWBf16(p, seed=1, **constants()))
    nearest = descend(torch.bfloat16, lambda p: torch.optim.AdamW(p, **constants()))
    moved = 1 - exact.mean()
    assert moved > 0.015
    assert abs(ours.mean() - exact.mean()) < 0.05 * moved
    assert abs(nearest.mean() - exact.mean()) > 0.5 * moved, "a test that plain bf16 must fail"


def test_float32_weights_get_the_steps_of_adamw() -> None:
    found = []
    for make in (
        lambda p: AdamWBf16(p, seed=1, **constants(lr=1e-2)),
        lambda p: torch.optim.AdamW(p, **constants(lr=1e-2)),
    ):
        values = parameters()
        optimizer = make(list(values.values()))
        for step in range(20):
            feel(values, step)
            if step % 3 == 0:
                # A parameter that a batch does not reach has a count of its own.
                values["a.lora_A.weight"].grad = None
            optimizer.step()
        found.append(values)
    for name in SHAPES:
        # Twenty steps of a dozen operations.
        assert_alike(found[0][name], found[1][name], 20 * 12)


def test_moments_are_those_of_adamw_on_average() -> None:
    values, exact = parameters(torch.bfloat16), parameters(torch.bfloat16)
    ours = AdamWBf16(values.values(), seed=1, **constants())
    theirs = AdamWBf16([nn.Parameter(p.detach().float()) for p in exact.values()], seed=1, **constants())
    for step in range(300):
        draw = torch.Generator().manual_seed(step)
        for low, high in zip(values.values(), theirs.param_groups[0]["params"], strict=True):
            low.grad = torch.randn(low.shape, generator=draw).bfloat16()
            high.grad = low.grad.float()
        ours.step()
        theirs.step()
    for key, tolerance in (("exp_avg", 0.02), ("exp_avg_sq", 0.02)):
        low = torch.cat([ours.state[p][key].flatten().float() for p in values.values()])
        high = torch.cat([theirs.state[p][key].flatten() for p in theirs.param_groups[0]["params"]])
        assert (low - high).norm() < tolerance * high.norm(), key


def test_rounding_is_right_on_average_and_exact_where_nothing_is_to_round() -> None:
    noise = torch.Generator().manual_seed(0)
    values = torch.full((200_000,), 1.001)
    rounded = stochastic_round(values, noise)
    assert set(rounded.float().tolist()) == {1.0, 1.0078125}
    assert rounded.float().mean().item() == pytest.approx(1.001, abs=1e-4)
    odd = torch.tensor([0.0, -2.5, torch.inf, -torch.inf, torch.nan])
    assert torch.equal(stochastic_round(odd, noise).nan_to_num(7.0), odd.bfloat16().nan_to_num(7.0))


# --- state ---


class Launches(TorchDispatchMode):
    """Counts operations that a device would run: no views, and nothing on single numbers, which stay here."""

    VIEWS = ("aten::view", "aten::split_with_sizes", "aten::detach", "aten::_unsafe_view", "aten::alias")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        runs = func._schema.name not in self.VIEWS and any(value.numel() > 1 for value in values)
        self.count += runs
        return func(*args, **(kwargs or {}))


def test_a_step_of_many_tensors_is_as_many_launches_as_one_of_few() -> None:
    """A LoRA has 2,304 tensors of a few KiB: on a device a launch for each takes longer than the work."""

    def launches(count: int) -> int:
        values = {str(n): nn.Parameter(torch.randn(3, 5, dtype=torch.bfloat16)) for n in range(count)}
        optimizer = AdamWBf16(values.values(), seed=1, **constants())
        averages = Ema(values, settings(use_ema=True))
        for _ in range(2):
            for value in values.values():
                value.grad = torch.randn_like(value)
            with Launches() as counted:
                optimizer.step()
        with Launches() as averaged:
            averages.update(values, 1)
        # An average is float32: each weight is cast by itself.
        return counted.count + averaged.count - count

    assert launches(40) == launches(4) > 0


OPTIMIZERS = ["adamw", "adamw_bf16", "adamw8bit", "prodigy"]


def installed(name: str) -> bool:
    package = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}.get(name)
    return package is None or importlib.util.find_spec(package) is not None


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if installed(name)])
def test_a_state_continues_to_the_bit(name: str, tmp_path: Path) -> None:
    chosen = settings(
        optimizer=name, lr_scheduler="cosine", lr_warmup_steps=2, use_ema=True, ema_update_interval=3
    )
    dtype = torch.bfloat16 if name == "adamw_bf16" else torch.float32

    def run(state: TrainingState, first: int, last: int) -> None:
        for step in range(first, last + 1):
            feel(state.parameters, step)
            state.advance(step)

    straight = TrainingState(parameters(dtype), chosen, CPU)
    run(straight, 1, 5)
    saved = write_checkpoint(tmp_path, straight.checkpoint(5, "f"), limit=1)
    run(straight, 6, 12)

    resumed = TrainingState(parameters(dtype), chosen, CPU)
    resumed.resume(read_checkpoint(saved))
    run(resumed, 6, 12)
    ours, theirs = resumed.checkpoint(12, "f"), straight.checkpoint(12, "f")
    assert ours.optimizer.numbers == theirs.optimizer.numbers
    assert ours.schedule == theirs.schedule
    for mine, other in (
        (ours.lora, theirs.lora),
        (ours.optimizer.tensors, theirs.optimizer.tensors),
        (ours.ema or {}, theirs.ema or {}),
    ):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_weights_decay_with_the_gradient_and_not_without() -> None:
    state = TrainingState(parameters(), settings(adam_weight_decay=0.5), CPU)
    before = {name: p.detach().clone() for name, p in state.parameters.items()}
    for name, parameter in state.parameters.items():
        if name != "unreached":
            parameter.grad = torch.zeros_like(parameter)
    state.advance(1)
    for name, parameter in state.parameters.items():
        factor = 1.0 if name == "unreached" else 1 - 1e-2 * 0.5
        torch.testing.assert_close(parameter, factor * before[name])


@pytest.mark.parametrize("name", ["adamw8bit", "prodigy"])
def test_an_optimizer_whose_package_is_missing_says_how_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(
        OptimizerMissing, match=rf"training\.optimizer: {name} needs .* or use adamw or adamw_bf16"
    ):
        make_optimizer(parameters(), settings(optimizer=name), CPU)


# --- clipping, schedules, averages ---


def test_gradients_are_clipped_by_norm_or_by_value() -> None:
    for method, expected in (("norm", [0.6, 0.8]), ("value", [1.0, 1.0])):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([3.0, 4.0])
        norm = clip_gradients([weight], settings(grad_clip_method=method))
        assert norm == 5.0, "the norm that is recorded is the one before"
        assert weight.grad.tolist() == pytest.approx(expected, rel=1e-4)


def rates(steps: tuple[int, ...], **keys: object) -> list[float]:
    chosen = settings(learning_rate=1.0, **keys)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, chosen)
    found = []
    for _ in range(100):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return [found[step] for step in steps]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"lr_scheduler": "constant"}, (1, 1, 1, 1)),
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 20}, (0.0, 0.5, 1, 1)),
        ({"lr_scheduler": "linear"}, (1, 0.9, 0.5, 0.25)),
        ({"lr_scheduler": "cosine"}, (1, 0.975528, 0.5, 0.146447)),
        ({"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2}, (1, 0.904508, 1, 0.5)),
        ({"lr_scheduler": "polynomial", "lr_power": 2.0, "lr_end": 0.1}, (1, 0.829, 0.325, 0.15625)),
        ({"lr_scheduler": "sine", "lr_num_cycles": 1, "lr_end": 0.2}, (1, 0.923607, 0.2, 0.6)),
    ],
)
def test_rates_are_those_of_their_formula(keys: dict[str, object], expected: tuple[float, ...]) -> None:
    assert rates((0, 10, 50, 75), **keys) == pytest.approx(expected, abs=1e-5)


def test_an_average_follows_the_weights_and_forgets_the_start() -> None:
    weight = {"w": torch.zeros(3)}
    ema = Ema(weight, settings(use_ema=True, ema_decay=0.9, ema_update_interval=2))
    weight["w"] += 1
    for step in range(1, 5):
        ema.update(weight, step)
    # Two updates, of 9/10 and of 9/11 of the way.
    assert ema.averages["w"].tolist() == pytest.approx([1 - 0.1 * 2 / 11] * 3)
    with pytest.raises(ValueError, match="first v"):
        ema.load({"v": torch.zeros(3)})


def test_dynamos_keys_turn_compilation_on_and_settings_survive_a_round_trip() -> None:
    assert settings(dynamo_mode="max-autotune").torch_compile
    plain = settings(optimizer="prodigy")
    assert not plain.torch_compile
    assert TrainingSettings.model_validate_json(plain.model_dump_json()) == plain


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"learning_rate": -1e-4}, "learning_rate"),
        ({"lr_end": 1.0, "lr_scheduler": "polynomial"}, "lr_end 1 is not below learning_rate"),
        ({"ema_export": "instead"}, "write use_ema: true"),
        ({"dynamo_mode": "max-autotune", "torch_compile": False}, "dynamo_mode is given, but torch_compile"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"num_train_epochs": 2}, "set one of them"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**keys)
