"""Several processes that train as one: which process computes which batch, and what they exchange.

Batch `number` is the same whichever process computes it, and a step is the mean over its batches. The number
of processes therefore changes the speed of a step and the order of its sums, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ltxcore.config.processes_settings import ProcessSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.training.step import StepLosses

if TYPE_CHECKING:
    from ltxcore.training.state import TrainingState

T = TypeVar("T")
BLOCK_CLASS = "LTX2VideoTransformerBlock"


class Processes:
    """This process among those that train together; alone where nothing started more.

    Args:
        settings: precision and accumulation.
        sharing: whether the transformer is sharded; the number of processes is that of the process group.
        device: where this process computes.
    """

    def __init__(self, settings: TrainingSettings, sharing: ProcessSettings, device: torch.device) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        self._sharded = torch.distributed.is_initialized() and sharing.sharded
        # A batch without sound reaches no audio module, and no buffer changes while training.
        ddp = DistributedDataParallelKwargs(
            find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            cpu=device.type == "cpu",
            # The model is where its loader put it.
            device_placement=False,
            kwargs_handlers=[ddp],
        )
        self._device = device
        self._settings = settings
        self._called: Any = None
        if self._sharded:
            self._shard(_fsdp_plugin(sharing))
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what all of them have computed."""
        return self.rank == 0

    def number(self, own: int) -> int:
        """The number in the training of this process's batch `own`, counted from 0."""
        return own * self.count + self.rank

    def prepare(self, transformer: Any, state: TrainingState) -> Any:
        """The transformer as a step calls it. The trained parameters may be others after it."""
        if self.count == 1:
            self._called = self.accelerator.prepare(transformer)
            return self._called
        if self._sharded:
            _reach_every_parameter(transformer)
            model, _ = self.accelerator.prepare(transformer, state.optimizer)
            self._called = model
            # accelerate leaves precision to the policy of the shards, which would round the adapter too.
            autocast = torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._settings.mixed_precision == "bf16"
            )
            model.forward = autocast(model.forward)
            return model
        frozen = [name for name, p in transformer.named_parameters() if not p.requires_grad]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(transformer, frozen)
        self._called = self.accelerator.prepare(transformer)
        return Wrapped(self._called)

    def accumulate(self) -> AbstractContextManager[None]:
        """Around each batch of a step: gradients are exchanged after the last one only."""
        held: AbstractContextManager[None] = self.accelerator.accumulate(self._called)
        return held

    def merged(self, own: StepLosses) -> StepLosses:
        """The losses of the whole step, from those of every process's batches."""
        if self.count == 1:
            return own
        every: list[StepLosses] = [own] * self.count
        torch.distributed.all_gather_object(every, own)
        batches = [batch for losses in every for batch in losses.batches]
        return StepLosses(own.step, sorted(batches, key=lambda batch: batch.number))

    def forget_unreached(self, parameters: Mapping[str, nn.Parameter], losses: StepLosses) -> None:
        """Remove the zero gradients of parameters that no loss of the step has reached.

        The optimizer then leaves them alone, moments and weight decay included, as it does in one process.
        """
        if not self._sharded:
            return
        sound = any(batch.has_audio for batch in losses.batches)
        pictures = any(batch.has_video for batch in losses.batches)
        both = any(batch.has_audio and batch.has_video for batch in losses.batches)
        for name, parameter in parameters.items():
            across = "audio_to_video" in name or "video_to_audio" in name
            if not (both if across else sound if "audio" in name else pictures):
                parameter.grad = None

    def agreed(self, word: T) -> T:
        """The first process's value, sent to all."""
        if self.count == 1:
            return word
        said = [word]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            torch.distributed.barrier()

    def _shard(self, plugin: Any) -> None:
        """Make accelerate shard on every kind of device; by itself it only does so on accelerators."""
        from accelerate.utils import DistributedType

        self.accelerator.state.distributed_type = DistributedType.FSDP
        self.accelerator.state.fsdp_plugin = plugin


class Wrapped:
    """A transformer that is called through the wrapper of its process group; everything else goes to the
    transformer."""

    def __init__(self, wrapper: nn.Module) -> None:
        self.wrapper = wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrapper(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapper.module, name)


def _reach_every_parameter(transformer: Any) -> None:
    """Give every trained parameter a gradient in every batch, zero if necessary.

    The processes exchange the gradients of a block in one piece, which must have the same layout in all of
    them, also where one has a batch without sound.
    """

    blocks = list(transformer.transformer_blocks)
    inside = {id(module) for block in blocks for module in block.modules()}
    outside = [module for module in transformer.modules() if id(module) not in inside]
    for shared, modules in ((transformer, outside), *((block, list(block.modules())) for block in blocks)):
        places = [
            (m, name) for m in modules for name, p in m.named_parameters(recurse=False) if p.requires_grad
        ]
        if places:
            shared.register_forward_hook(partial(_add_nothing, places))


def _add_nothing(
    places: Sequence[tuple[nn.Module, str]], module: nn.Module, inputs: Any, outputs: Any
) -> Any:
    # The parameters are looked up now: while their module runs they are whole, and other tensors.
    trained = [getattr(owner, name) for owner, name in places]
    nothing = torch.stack([parameter.flatten()[:1].sum() * 0 for parameter in trained]).sum()
    first, *others = outputs
    return (first + nothing.to(first.dtype), *others)


def _fsdp_plugin(sharing: ProcessSettings) -> Any:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    config = sharing.fsdp
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[BLOCK_CLASS],
        # Every weight keeps its own precision: bfloat16 where it is frozen, float32 in the adapter.
        mixed_precision_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
        reshard_after_forward=bool(config.get("fsdp_reshard_after_forward", True)),
        cpu_offload=bool(config.get("fsdp_offload_params", False)),
        cpu_ram_efficient_loading=False,
    )
