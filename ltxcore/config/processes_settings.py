"""How many processes train together, and whether the transformer is sharded over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import Strict, read_document

Sharing = Literal["ddp", "fsdp2"]
DDP_TYPES = ("NO", "MULTI_GPU", "MULTI_CPU")


class ProcessSettings(Strict):
    """Training on several devices of one machine.

    A step takes count x gradient_accumulation_steps batches. Which batches these are does not depend on
    count, so two processes without accumulation train like one process that accumulates two batches.
    """

    count: PositiveInt = Field(1, description="Training processes, one for each device.")
    accelerate_config: Path | None = Field(
        None,
        description=(
            "A config file of accelerate, as in deploy/accelerate: its distributed_type says "
            "whether each process has the whole transformer or a shard of it. Default: the whole "
            "(DDP)."
        ),
    )

    @model_validator(mode="after")
    def _known_sharing(self) -> ProcessSettings:
        if self.accelerate_config is not None:
            self.sharing  # noqa: B018 - reading it checks the file
        return self

    @property
    def sharing(self) -> Sharing:
        """Whether each process has the whole transformer (ddp) or a shard of each block (fsdp2).

        Raises:
            ValueError: the file asks for a feature that is not supported.
        """
        config = self._config()
        kind = config.get("distributed_type", "NO")
        if kind in DDP_TYPES:
            return "ddp"
        if kind != "FSDP":
            raise ValueError(
                f"{self.accelerate_config} has distributed_type {kind}; give MULTI_GPU, or FSDP with "
                "fsdp_version: 2"
            )
        version = self.fsdp.get("fsdp_version", 1)
        if int(version) != 2:
            raise ValueError(
                f"{self.accelerate_config} has fsdp_version {version}; give 2, which alone shards frozen and "
                "trained weights of different precision"
            )
        return "fsdp2"

    @property
    def sharded(self) -> bool:
        """Whether the transformer is sharded over several processes."""
        return self.count > 1 and self.sharing == "fsdp2"

    @property
    def fsdp(self) -> dict[str, Any]:
        """The file's `fsdp_config`."""
        found: dict[str, Any] = self._config().get("fsdp_config") or {}
        return found

    def _config(self) -> dict[str, Any]:
        if self.accelerate_config is None:
            return {}
        data, _ = read_document(self.accelerate_config)
        if not isinstance(data, dict):
            raise ValueError(f"{self.accelerate_config} is not a config of accelerate")
        machines = data.get("num_machines", 1)
        if machines != 1:
            raise ValueError(
                f"{self.accelerate_config} has num_machines {machines}, but the processes of a training run "
                "on one machine; give 1"
            )
        return data
