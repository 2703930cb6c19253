"""Group offload by diffusers' hooks, corrected for training an adapter with gradient checkpointing.

The hooks are made for inference; four things are set right here, from outside. A group would carry the
adapter away with the frozen weights (and from disk bring back its first values); autograd would keep
parameters whose data has left the device by the time backward reads them; a recomputation that stops early
would never leave its group; and prefetching knows only the forward order.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle

from ltxcore.memory.arrangement import GroupSettings
from ltxcore.memory.streaming.saved_tensors import keep_storage_of_frozen

_HOOK = "group_offloading"


class NotOffloadable(ValueError):
    """Weights that group offload cannot move."""


class GroupOffloading:
    """A frozen transformer whose groups of layers come to the device when they compute.

    The adapter is added afterwards; it stays on the device. Gradient checkpointing must run each block to its
    end in recomputation (`early_stop=False`).

    Args:
        transformer: without adapter, on the host.
        device: where it computes.
        settings: how it is grouped.

    Raises:
        NotOffloadable: the weights are quantised, or a stream is wanted on a device without streams.
    """

    def __init__(self, transformer: Any, device: torch.device | str, settings: GroupSettings) -> None:
        from diffusers.hooks import apply_group_offloading

        device = torch.device(device)
        _require_movable(transformer, device, settings)
        # diffusers reads a file that it finds instead of writing it: one of another model would be taken.
        self._files = None
        if settings.disk is not None:
            settings.disk.mkdir(parents=True, exist_ok=True)
            self._files = Path(tempfile.mkdtemp(prefix="groups-", dir=settings.disk))
        apply_group_offloading(
            transformer,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type=settings.kind,
            num_blocks_per_group=settings.blocks_per_group,
            use_stream=settings.use_stream,
            # Without it a freed group's memory is filled again while the backward pass still reads it.
            record_stream=settings.use_stream,
            offload_to_disk_path=None if self._files is None else str(self._files),
        )
        for group in {id(hook.group): hook.group for hook in group_hooks(transformer)}.values():
            _fix_members(group)
        for part in (transformer, *transformer.transformer_blocks):
            part.forward = _keeping_values(part.forward)
        self._transformer, self._blocks = transformer, transformer.transformer_blocks
        self._turns = [
            block.register_forward_pre_hook(turn)
            for block, turn in _turns(transformer, transformer.transformer_blocks)
        ]

    @contextmanager
    def reading(self, number: int | None) -> Iterator[None]:
        """Within, the weights of the block may be read, on the device; None: those outside of all blocks."""
        inside = {id(hook) for block in self._blocks for hook in group_hooks(block)}
        hooks = (
            [hook for hook in group_hooks(self._transformer) if id(hook) not in inside]
            if number is None
            else list(group_hooks(self._blocks[number]))
        )
        groups = {id(hook.group): hook.group for hook in hooks}.values()
        for group in groups:
            group.onload_()
        yield
        for group in groups:
            group.offload_()

    def remove(self) -> None:
        """Delete the files on disk and stop turning; diffusers' hooks stay."""
        handle: RemovableHandle
        for handle in self._turns:
            handle.remove()
        if self._files is not None:
            shutil.rmtree(self._files)


def offload_layers(model: nn.Module, device: torch.device | str, settings: GroupSettings) -> None:
    """Move the layers of a frozen language model to the device while they compute, by diffusers' hooks.

    For forward passes without gradients alone.

    Raises:
        NotOffloadable: the weights are quantised, a stream is wanted on a device without streams, or the
            groups shall wait on disk, where the model's own files are.
    """
    from diffusers.hooks import apply_group_offloading

    device = torch.device(device)
    _require_movable(model, device, settings)
    if settings.disk is not None:
        raise NotOffloadable(
            "group_offload_to_disk_path is for the transformer; Gemma is read from its own files with "
            "model.text_encoder_loading: layer_by_layer"
        )
    apply_group_offloading(
        model,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=settings.kind,
        num_blocks_per_group=settings.blocks_per_group if settings.kind == "block_level" else None,
        use_stream=settings.use_stream,
        record_stream=settings.use_stream,
    )


def group_hooks(module: nn.Module) -> Iterator[Any]:
    """The group-offload hooks on a module and what is below it."""
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        hook = None if registry is None else registry.get_hook(_HOOK)
        if hook is not None:
            yield hook


def _require_movable(transformer: nn.Module, device: torch.device, settings: GroupSettings) -> None:
    if any(is_traceable_wrapper_subclass(p) for p in transformer.parameters()):
        raise NotOffloadable(
            "group offload cannot move quantised weights; choose memory.strategy: block_streaming, which "
            "can, or base_model_precision: no_change"
        )
    if settings.use_stream and device.type == "cpu":
        raise NotOffloadable(
            "group_offload_use_stream needs a device with streams and this is the CPU; leave it out, or "
            "choose memory.strategy: block_streaming"
        )


def _fix_members(group: Any) -> None:
    """Fix a group's parameters to those that it has now, without any added to its modules later."""
    for module in group.modules:
        group.parameters = [*group.parameters, *module.parameters()]
        group.buffers = [*group.buffers, *module.buffers()]
    group.modules = []


def _keeping_values(forward: Callable[..., Any]) -> Callable[..., Any]:
    def forward_and_keep(*args: Any, **kwargs: Any) -> Any:
        with keep_storage_of_frozen():
            return forward(*args, **kwargs)

    return forward_and_keep


def _turns(transformer: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, Any]]:
    """For each block, what makes its last group prefetch the block that computes next, either way."""
    entries: dict[int, Any] = {}

    def turn_of(number: int, block: nn.Module) -> Any:
        exits: list[tuple[Any, Any]] = []

        def turn(module: nn.Module, args: Any) -> None:
            if not entries and not _trace(transformer, blocks, entries):
                return
            if not exits:
                own = {id(hook.group) for hook in group_hooks(block)}
                exits.extend(
                    (hook, hook.next_group)
                    for hook in group_hooks(block)
                    if hook.next_group is not None and id(hook.next_group) not in own
                )
            backward = torch._C._current_graph_task_id() != -1
            for hook, following in exits:
                hook.next_group = entries.get(number - 1) if backward else following
            if not exits and backward and number == len(blocks) - 1:
                # The last block prefetches nothing in forward, so it has no exit of its own.
                last = list(group_hooks(block))[-1]
                exits.append((last, None))
                last.next_group = entries.get(number - 1)

        return turn

    for number, block in enumerate(blocks):
        yield block, turn_of(number, block)


def _trace(transformer: nn.Module, blocks: Sequence[nn.Module], entries: dict[int, Any]) -> bool:
    """Note each block's first group once diffusers has traced the order; False without prefetching."""
    targets = [hook.next_group for hook in group_hooks(transformer) if hook.next_group is not None]
    for number, block in enumerate(blocks):
        own = {id(hook.group) for hook in group_hooks(block)}
        inner = {id(h.next_group) for h in group_hooks(block) if h.next_group is not None}
        found = [group for group in targets if id(group) in own - inner]
        if found:
            entries[number] = found[0]
    return bool(entries)
