"""One block of the full-size transformer on fake tensors: every operation of a step counted, none computed.

A block is the difference of a model of two blocks and one of one. The forward pass runs on fake CUDA tensors,
under CUDA's autocast rules and with its fused norms; the backward pass on fake CPU tensors with CUDA's norm
and attention in the place of the CPU's, since autograd asks a real device for the other. No GPU is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any
from unittest import mock

import torch
from optimum.quanto import WeightQBytesTensor, qint8
from optimum.quanto.library.qbytes_mm import qbytes_mm
from optimum.quanto.nn import QModuleMixin
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.weight_precisions import NO_CHANGE, PRECISIONS, stays_exact
from ltxcore.memory.planner.sizes import Tokens
from ltxcore.models.files.quantise import Quantiser, quantiser_of
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.versions import VERSIONS
from ltxcore.training.adapters import inject
from ltxcore.training.lora import target_modules

SMALL_BYTES = 2 << 20
"""Of a kernel that is over before the next one could be launched."""
_ATTENTION = ("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", *_ATTENTION)
_IN_PLACE = {torch.ops.aten.addmm_: torch.ops.aten.addmm}
# They make memory or another look at it, and launch nothing.
_FREE = (
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "_unsafe_view",
    "lift_fresh",
)


@dataclass(frozen=True)
class Clip:
    """What a batch is made of."""

    width: int = 1280
    height: int = 704
    frames: int = 49
    batch: int = 1
    fps: float = 25.0
    text_tokens: int = 1024

    @property
    def tokens(self) -> Tokens:
        return Tokens.of(
            self.width, self.height, self.frames, fps=self.fps, audio=True, text=self.text_tokens
        )


@dataclass(frozen=True)
class Counts:
    """What a pass through a block comes to."""

    kernels: int = 0
    products: int = 0
    """Of the kernels: matrix products and attentions."""
    small: int = 0
    """Of the kernels: those that touch less than `SMALL_BYTES`."""
    gemm_flop: float = 0
    attention_flop: float = 0
    other_bytes: int = 0
    """Read and written by everything but the products. An expanded input is read once."""

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Counts:
        return Counts(*(getattr(self, f.name) * times for f in fields(self)))


@dataclass(frozen=True)
class BlockCounts:
    """One block of a step."""

    forward: Counts
    backward: Counts
    kept_bytes: int
    """Kept for backward where nothing is computed anew, weights left out."""
    operations: dict[str, int]
    """Name -> kernels of the forward pass, to see what they are."""


@cache
def count_block(
    version: str = "2.0",
    clip: Clip = Clip(),
    rank: int = 16,
    precision: str = "no_change",
) -> BlockCounts:
    """Count a block of a released version with a LoRA on the default targets, over a bf16 or int8 base."""
    (one, _), (two, _) = (_run(version, n, "cuda", clip, rank, precision, backward=False) for n in (1, 2))
    (_, one_back), (_, two_back) = (
        _run(version, n, "cpu", clip, rank, precision, backward=True) for n in (1, 2)
    )
    return BlockCounts(
        forward=two.counts - one.counts,
        backward=two_back.counts - one_back.counts,
        kept_bytes=two.kept_bytes - one.kept_bytes,
        operations=dict((two.operations - one.operations).most_common()),
    )


class _Recorder(TorchDispatchMode):
    """Counts what is dispatched while it is entered, and weighs what autograd keeps."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.counts = Counts()
        self.operations: Counter[str] = Counter()
        self._weights = weights
        self._kept: dict[int, Any] = {}

    @property
    def kept_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """What autograd is about to keep: each memory once, however many views of it are kept."""
        for part in _plain_parts(tensor):
            storage = part.untyped_storage()
            if storage._cdata not in self._weights:
                self._kept[storage._cdata] = storage
        return tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, name = func._schema.name.split("::")
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if views or namespace == "prim" or name in _FREE:
            return out
        touched = sum(_touched_bytes(t) for t in tree_leaves((args, kwargs, out)))
        is_product = name.rstrip("_") in _PRODUCTS
        flop_of = flop_registry.get(_IN_PLACE.get(func._overloadpacket, func._overloadpacket))
        flop = flop_of(*args, **(kwargs or {}), out_val=out) if flop_of is not None else 0
        self.operations[name] += 1
        self.counts += Counts(
            kernels=1,
            products=int(is_product),
            small=int(not is_product and touched < SMALL_BYTES),
            gemm_flop=0 if name in _ATTENTION else flop,
            attention_flop=flop if name in _ATTENTION else 0,
            other_bytes=0 if is_product else touched,
        )
        return out


def _touched_bytes(value: Any) -> int:
    if not isinstance(value, torch.Tensor):
        return 0
    elements = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        elements *= size if stride else 1
    return elements * value.element_size()


def _plain_parts(tensor: Any) -> Iterator[torch.Tensor]:
    if type(tensor).__name__ == "FakeTensor" or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_parts(getattr(tensor, name))


def _run(
    version: str, layers: int, device: str, clip: Clip, rank: int, precision: str, *, backward: bool
) -> tuple[_Recorder, _Recorder]:
    """Forward, and backward where wanted, of a model of so many blocks."""
    from diffusers import LTX2VideoTransformer3DModel

    with torch.device("meta"):
        transformer = LTX2VideoTransformer3DModel(
            **{**VERSIONS[version].transformer, "num_layers": layers, "perturbed_attn": True}
        )
    transformer.requires_grad_(False)
    quantiser = None if precision == NO_CHANGE else quantiser_of(PRECISIONS[precision])
    if quantiser is not None:
        for block in transformer.transformer_blocks:
            _quantise(block, quantiser, device)
    inject(transformer, LoraSettings(lora_rank=rank), target_modules(transformer, with_audio=True))
    with FakeTensorMode(), _cuda_kernels(), _autocast(device):
        weights = _fill(transformer, device)
        install_cross_modulation(transformer)
        transformer.train()
        forward, back = _Recorder(weights), _Recorder(weights)
        inputs = _inputs(transformer.config, clip, device)
        with torch.autograd.graph.saved_tensors_hooks(forward.keep, lambda kept: kept), forward:
            found = predict_velocity(transformer, **inputs)
        if backward:
            torch.set_autocast_enabled(device, False)
            with back:
                torch.autograd.backward(found, [torch.ones_like(velocity) for velocity in found])
    return forward, back


def _quantise(block: nn.Module, quantiser: Quantiser, device: str) -> None:
    """Put a quantised linear in the place of each that loading would quantise."""
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear) and not stays_exact(f"{name}.weight", module.weight.shape):
            made = quantiser.prepare(module, torch.bfloat16, torch.device("meta"))
            parent, _, last = name.rpartition(".")
            setattr(block.get_submodule(parent), last, made.requires_grad_(False))


def _fill(transformer: nn.Module, device: str) -> set[int]:
    """Give every parameter a fake tensor on the device; the ids of their storages."""
    for module in transformer.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            dtype = torch.float32 if parameter.requires_grad else torch.bfloat16
            made = torch.empty(parameter.shape, dtype=dtype, device=device)
            if isinstance(module, QModuleMixin) and name == "weight":
                values, scales = made.to(torch.int8), made.new_empty(made.shape[0], 1)
                made = WeightQBytesTensor(qint8, 0, made.size(), made.stride(), values, scales, None)
            module._parameters[name] = nn.Parameter(made, requires_grad=parameter.requires_grad)
    parts = (part for parameter in transformer.parameters() for part in _plain_parts(parameter))
    return {part.untyped_storage()._cdata for part in parts}


def _inputs(config: Any, clip: Clip, device: str) -> dict[str, Any]:
    values = {"dtype": torch.bfloat16, "device": device}
    sigma = torch.rand(clip.batch, device=device)
    frames = (clip.frames - 1) // 8 + 1
    shape = (clip.batch, config.in_channels, frames, clip.height // 32, clip.width // 32)

    def embeds(width: int) -> torch.Tensor:
        # Where the model has no projection of its own, the connectors give the stream's width.
        width = config.caption_channels if config.use_prompt_embeddings else width
        return torch.empty(clip.batch, clip.text_tokens, width, **values)

    return {
        "video": torch.empty(shape, **values),
        "audio": torch.empty(clip.batch, clip.tokens.audio, config.audio_in_channels, **values),
        "video_times": sigma,
        "audio_times": sigma,
        "video_sigma": sigma,
        "audio_sigma": sigma,
        "video_embeds": embeds(config.cross_attention_dim),
        "audio_embeds": embeds(config.audio_cross_attention_dim),
        "fps": clip.fps,
    }


@contextmanager
def _autocast(device: str) -> Iterator[None]:
    """bf16 autocast of a device that need not be there, which `torch.autocast` would turn off."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


@contextmanager
def _cuda_kernels() -> Iterator[None]:
    """Let attention be flash and RMSNorm be one kernel, as on CUDA, whatever device the tensors claim."""
    with (
        mock.patch.object(nn.functional, "scaled_dot_product_attention", _flash),
        mock.patch.object(nn.functional, "rms_norm", _FusedRmsNorm.run),
        # What quanto does on CUDA with 8 bits of weight alone, as the operations that it is made of.
        mock.patch.object(torch.ops.quanto, "qbytes_mm", qbytes_mm),
    ):
        yield


def _flash(query: Any, key: Any, value: Any, scale: float | None = None, **kwargs: Any) -> torch.Tensor:
    mask, causal = kwargs.pop("attn_mask", None), kwargs.pop("is_causal", False)
    if mask is not None or causal:
        raise NotImplementedError("an attention with a mask is not flash: count it as what it is")
    found: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[
        0
    ]
    return found


@torch.library.custom_op("ltx2_bench::fused_rms_norm", mutates_args=())
def _rms_norm(x: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError("counted on fake tensors only")


@_rms_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)


@torch.library.custom_op("ltx2_bench::fused_rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None
) -> torch.Tensor:
    raise NotImplementedError("counted on fake tensors only")


@_rms_norm_backward.register_fake
def _(
    gradient: torch.Tensor, x: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None
) -> torch.Tensor:
    return torch.empty_like(x)


class _FusedRmsNorm(torch.autograd.Function):
    """CUDA's norm with a frozen weight or none: keeps its input and one value a row."""

    @staticmethod
    def run(x: torch.Tensor, shape: Any, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        return _FusedRmsNorm.apply(x, weight)

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        out, rstd = _rms_norm(x, weight)
        ctx.save_for_backward(x, rstd, weight)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, rstd, weight = ctx.saved_tensors
        return _rms_norm_backward(gradient, x, rstd, weight), None
