"""The arithmetic of a LoRA over peft's parameters: two thin products, the second added in the base's output.

peft keeps the parameters, their names and their kinds; its forward pass is replaced. It casts every input to
the adapter's float32 (which autocast casts back), multiplies the product by the scale in a pass of its own
and adds it in another. Here the factors come to the computing type together as their block begins, linears
that read the same input share the first product, and the scale and the sum are part of the second one.

In float32 the sums are in peft's order and nothing is shared, so that every bit is peft's. In bf16 the result
has one rounding less.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Who reads the same input: of an attention to its own stream all three, of one to another stream these two.
_SELF_ATTENTIONS, _SELF, _CROSS = ("attn1", "audio_attn1"), ("to_q", "to_k", "to_v"), ("to_k", "to_v")


def replace_forward(transformer: nn.Module, adapter_name: str) -> None:
    """Let the adapter's layers compute as here, wherever they are what peft calls a plain LoRA.

    DoRA, LoKr and LoHa compute as before, on inputs that autocast has cast already and that are not cast to
    float32 and back.
    """
    from peft.tuners.lora.layer import Linear, LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(transformer.named_modules())
    layers: dict[str, LoraProduct] = {}
    for name, module in modules.items():
        if not isinstance(module, BaseTunerLayer):
            continue
        plain = isinstance(module, LoraLayer) and adapter_name in module.lora_A
        if plain and isinstance(module, Linear) and adapter_name not in module.lora_variant:
            layers[name] = LoraProduct(module, adapter_name)
            module.forward = layers[name]
        else:
            module.forward = _UncastInput(module)
    for name in modules:
        alike = _SELF if name.rpartition(".")[2] in _SELF_ATTENTIONS else _CROSS
        members = [layers[path] for part in alike if (path := f"{name}.{part}") in layers]
        if len(members) == len(alike) and len({member.signature for member in members}) == 1:
            shared = SharedInput(members)
            for member in members:
                member.shared = shared
    for name, block in getattr(transformer, "transformer_blocks", nn.ModuleList()).named_children():
        inside = [layer for path, layer in layers.items() if path.startswith(f"transformer_blocks.{name}.")]
        if inside:
            Casts(inside).follow(block)


class _UncastInput:
    """A peft layer's own forward pass, without its cast of the input where autocast makes one anyway."""

    def __init__(self, module: Any) -> None:
        self._module, self._forward = module, type(module).forward

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._module.cast_input_dtype_enabled = _autocast_dtype(x) is None
        out: torch.Tensor = self._forward(self._module, x, *args, **kwargs)
        return out


class LoraProduct:
    """One adapted linear: its base's output plus scale · B(A x)."""

    def __init__(self, module: Any, adapter_name: str) -> None:
        self._module, self._name = module, adapter_name
        self._forward = type(module).forward
        self.down, self.up = module.lora_A[adapter_name], module.lora_B[adapter_name]
        self._dropout = module.lora_dropout[adapter_name]
        self.shared: SharedInput | None = None
        self.casts: Casts | None = None

    @property
    def signature(self) -> tuple[Any, ...]:
        """What layers have in common that can share a product."""
        return self.down.weight.shape, isinstance(self._dropout, nn.Identity)

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        module = self._module
        if module._disable_adapters and not module.merged:
            base: torch.Tensor = module.base_layer(x, *args, **kwargs)
            return base
        dtype = _autocast_dtype(x) or self.down.weight.dtype
        if args or kwargs or module.merged or module._active_adapter not in (self._name, [self._name]):
            return self._as_peft(x, *args, **kwargs)
        out = module.base_layer(x)
        if out.dtype is not dtype or (x.dtype is not dtype and _autocast_dtype(x) is None):
            return self._as_peft(x)
        scale = float(module.scaling[self._name])
        if torch.compiler.is_compiling():
            return self._for_the_compiler(x, out, dtype, scale)
        factor = self.up.weight
        cast = factor if factor.dtype is dtype else self._cast(factor, dtype)
        found: torch.Tensor = _Up.apply(out, self._thin(x, dtype), factor, cast, scale)
        return found

    def _as_peft(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        found: torch.Tensor = self._forward(self._module, x, *args, **kwargs)
        return found

    def _thin(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A x, [rows, rank]."""
        dropped = isinstance(self._dropout, nn.Identity)
        if self.shared is not None and dropped and dtype is not torch.float32:
            return self.shared.product(self, x, dtype)
        factor = self.down.weight
        read = self._dropout(x).to(dtype)
        cast = factor if factor.dtype is dtype else self._cast(factor, dtype)
        (found,) = _Down.apply(read, cast, factor)
        return found

    def _cast(self, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        made = None if self.casts is None else self.casts.of(factor)
        return factor.detach().to(dtype) if made is None else made

    def _for_the_compiler(
        self, x: torch.Tensor, out: torch.Tensor, dtype: torch.dtype, scale: float
    ) -> torch.Tensor:
        """The same as plain operations, which the compiler fuses by itself."""
        read = self._dropout(x).to(dtype).flatten(0, -2)
        thin = read @ self.down.weight.to(dtype).t()
        added = torch.addmm(out.flatten(0, -2), thin, self.up.weight.to(dtype).t(), alpha=scale)
        return added.view(out.shape)


class SharedInput:
    """Layers that read the same input, one after another: the first of them makes the product for all."""

    def __init__(self, members: Sequence[LoraProduct]) -> None:
        self.members = tuple(members)
        self._input: weakref.ref[torch.Tensor] | None = None
        self._made: dict[int, torch.Tensor] = {}

    def product(self, member: LoraProduct, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A x of a member, [rows, rank]."""
        held = None if self._input is None else self._input()
        if held is not x or id(member) not in self._made:
            factors = [each.down.weight for each in self.members]
            casts = member.casts
            joined = None if casts is None else casts.joined(factors)
            if joined is None:
                joined = torch.cat([factor.detach().to(dtype) for factor in factors])
            found = _Down.apply(x.to(dtype), joined, *factors)
            self._made = {id(each): thin for each, thin in zip(self.members, found, strict=True)}
            self._input = weakref.ref(x)
        return self._made.pop(id(member))

    def forget(self) -> None:
        """What was made for an input that is gone is of no use, and of factors that have changed wrong."""
        self._input, self._made = None, {}


class Casts:
    """The factors of one block in the type that autocast computes in, made together as the block begins.

    They are gone when it ends, so that none is of an earlier step.
    """

    def __init__(self, layers: Sequence[LoraProduct]) -> None:
        shared = {id(layer.shared): layer.shared for layer in layers if layer.shared is not None}
        self._shared = list(shared.values())
        # Factors that are used together lie side by side.
        ordered = [member.down for group in self._shared for member in group.members]
        inside = {id(holder) for holder in ordered}
        ordered += [layer.down for layer in layers if id(layer.down) not in inside]
        ordered += [layer.up for layer in layers]
        self._holders = ordered
        self._made: dict[int, torch.Tensor] = {}
        for layer in layers:
            layer.casts = self

    def follow(self, block: nn.Module) -> None:
        """Be there while the block computes, in recomputation too."""
        block.register_forward_pre_hook(self._begin)
        block.register_forward_hook(self._end, always_call=True)

    def of(self, factor: torch.Tensor) -> torch.Tensor | None:
        """The cast of a factor [rows, in]; None outside of the block, or for a factor that was replaced."""
        return self._made.get(id(factor))

    def joined(self, factors: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """The casts of factors that lie side by side as one, [sum of rows, in]."""
        made = [self._made.get(id(factor)) for factor in factors]
        if made[0] is None or any(part is None for part in made):
            return None
        rows = sum(factor.shape[0] for factor in factors)
        return made[0].as_strided((rows, factors[0].shape[1]), (factors[0].shape[1], 1))

    def _begin(self, block: nn.Module, args: Any) -> None:
        self._forget()
        if torch.compiler.is_compiling():
            return
        factors: list[torch.Tensor] = [holder.weight for holder in self._holders]
        dtype = _autocast_dtype(factors[0])
        if dtype is None:
            return
        with torch.no_grad():
            flat = torch.empty(sum(f.numel() for f in factors), dtype=dtype, device=factors[0].device)
            parts = flat.split([factor.numel() for factor in factors])
            views = [part.view(factor.shape) for part, factor in zip(parts, factors, strict=True)]
            torch._foreach_copy_(views, [factor.detach() for factor in factors])
        self._made = {id(factor): view for factor, view in zip(factors, views, strict=True)}

    def _end(self, block: nn.Module, args: Any, out: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        self._made = {}
        for group in self._shared:
            group.forget()


class _Down(torch.autograd.Function):
    """x Aᵀ for one factor, or for several side by side: keeps the input once."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, joined: torch.Tensor, *factors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The products, [rows, rank] each; `factors` get the gradients, `joined` is what is computed with."""
        ctx.save_for_backward(x, joined)
        ctx.set_materialize_grads(False)
        ctx.rows, ctx.dtype = [factor.shape[0] for factor in factors], factors[0].dtype
        found = x.reshape(-1, x.shape[-1]).mm(joined.t())
        return (found,) if len(factors) == 1 else found.split(ctx.rows, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        x, joined = ctx.saved_tensors
        there = [number for number, gradient in enumerate(gradients) if gradient is not None]
        if not there:
            return (None,) * (2 + len(gradients))
        if len(there) < len(gradients):
            parts = joined.split(ctx.rows)
            joined = torch.cat([parts[number] for number in there])
        present = [gradient for gradient in gradients if gradient is not None]
        thin = present[0] if len(present) == 1 else torch.cat(present, dim=1)
        of_input = thin.mm(joined).view(x.shape) if ctx.needs_input_grad[0] else None
        change = thin.t().mm(x.reshape(-1, x.shape[-1])).to(ctx.dtype)
        of_factors: list[torch.Tensor | None] = [None] * len(gradients)
        for number, part in zip(there, change.split([ctx.rows[n] for n in there]), strict=True):
            of_factors[number] = part
        return of_input, None, *of_factors


class _Up(torch.autograd.Function):
    """out + scale · thin Bᵀ, in the place of `out`."""

    @staticmethod
    def forward(
        ctx: Any,
        out: torch.Tensor,
        thin: torch.Tensor,
        factor: torch.Tensor,
        cast: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(thin, cast)
        ctx.scale, ctx.dtype = scale, factor.dtype
        ctx.mark_dirty(out)
        flat = out.view(-1, out.shape[-1])
        if _keeps_bits(scale, out.dtype):
            flat.addmm_(thin, cast.t(), alpha=scale)
        else:
            flat.add_(thin.mm(cast.t()).mul_(scale))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        thin, cast = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        if _keeps_bits(ctx.scale, gradient.dtype):
            of_thin, of_factor = _product(flat, cast, ctx.scale), _product(flat.t(), thin, ctx.scale)
        else:
            scaled = flat * ctx.scale
            of_thin, of_factor = scaled.mm(cast), scaled.t().mm(thin)
        return gradient, of_thin, of_factor.to(ctx.dtype), None, None


def _product(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """scale · left right, rounded once."""
    if scale == 1:
        return left.mm(right)
    return torch.addmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def _keeps_bits(scale: float, dtype: torch.dtype) -> bool:
    """Whether a scale inside of a product rounds as one after it: a power of two does, in any order.

    Below float32 the product's sums are float32 and are rounded once, whatever the scale.
    """
    return dtype is not torch.float32 or math.frexp(scale)[0] == 0.5


def _autocast_dtype(tensor: torch.Tensor) -> torch.dtype | None:
    """What autocast computes in on a tensor's device; None where it is off."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
