"""The plan of a training whose processes shard the transformer over their devices (FSDP2)."""

from __future__ import annotations

from dataclasses import replace

from ltxcore.memory.planner.training_planner import Planner, TrainingPlan, Workload

GATHERED_BLOCKS = 2
"""Blocks that are whole on every device at once: the one at work, and the next one, on its way."""


def sharded_plan(planner: Planner, workload: Workload, count: int) -> TrainingPlan:
    """The figures of one of `count` processes.

    Each loads the whole transformer into host memory before it hands out what is not its share.
    """
    sizes, value = planner.sizes, workload.value_bytes
    checkpointed = sizes.blocks if workload.checkpointing else 0
    alone = planner.plan("resident", workload, "no_change", sizes.blocks, checkpointed)
    transformer = sizes.weights_bytes("no_change", value)
    block = sizes.block_bytes("no_change", value)
    share = transformer // count + GATHERED_BLOCKS * block + sizes.outside_bytes(value)
    spared = transformer - share + alone.adapter_bytes * (count - 1) // count
    return replace(
        alone,
        weights_bytes=alone.weights_bytes - transformer + share,
        adapter_bytes=alone.adapter_bytes // count,
        device_bytes=alone.device_bytes - spared,
        host_bytes=count * (alone.host_bytes + transformer),
    )
