"""torch.compile of a transformer's blocks, once for each shape that the data has."""

from __future__ import annotations

from typing import Any

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.arrangement import Arrangement, StrategyUnavailable

GRAPHS_A_SHAPE = 4
"""With and without gradient, full and left-over batch."""


def compile_blocks(
    transformer: Any, settings: TrainingSettings, arrangement: Arrangement, shapes: int
) -> None:
    """Compile each block; checkpointing wraps it from outside, uncompiled.

    Shapes are compiled as they are (`dynamic=False`): all batches of a bucket have one shape, and all blocks
    share its compiled code.

    Args:
        transformer: adapted already.
        settings: backend and mode.
        arrangement: where its weights are.
        shapes: how many shapes of batches there are.

    Raises:
        StrategyUnavailable: the weights are not resident, so they would move after the code is compiled.
    """
    import torch._dynamo

    if arrangement.strategy != "resident":
        raise StrategyUnavailable(
            f"training.torch_compile needs weights that stay in place, but memory.strategy is "
            f"{arrangement.strategy}; write torch_compile: false, or memory.strategy: resident"
        )
    torch._dynamo.config.recompile_limit = max(
        torch._dynamo.config.recompile_limit, GRAPHS_A_SHAPE * (shapes + 1)
    )
    mode = settings.dynamo_mode if settings.dynamo_backend == "inductor" else None
    for block in transformer.transformer_blocks:
        block.compile(backend=settings.dynamo_backend, mode=mode, dynamic=False)
