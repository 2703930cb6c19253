"""LoRA files on a rendering's model: put on together, at their strengths, and taken off without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ltxcore.memory.placement import Placement
from ltxcore.models.lora.fitting import require_names
from ltxcore.models.lora.header import AdapterError
from ltxcore.models.lycoris import is_lycoris, load_lycoris

ADAPTER, SECOND_ADAPTER = "lora", "second-stage"


class TransformerAlone:
    """Stands where `MountedAdapters` has a pipeline, for a transformer without one."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def load_lora_weights(self, folder: str, *, adapter_name: str, **found: Any) -> None:
        """Put a LoRA file on the transformer, as `LTX2Pipeline` does it."""
        from diffusers import LTX2Pipeline

        weights, metadata = LTX2Pipeline.lora_state_dict(folder, return_lora_metadata=True, **found)
        LTX2Pipeline.load_lora_into_transformer(
            weights, transformer=self.transformer, adapter_name=adapter_name, metadata=metadata
        )

    def unload_lora_weights(self) -> None:
        """Take all adapters off."""
        self.transformer.unload_lora()


class MountedAdapters:
    """The adapters that are on a pipeline's transformer: those of all stages, and one of the second alone."""

    def __init__(self, pipeline: Any, placement: Placement) -> None:
        self._pipeline = pipeline
        self._placement = placement
        self._mounted = False
        self._everywhere: list[tuple[str, float]] = []
        self._second: tuple[str, float] | None = None

    @property
    def has_second(self) -> bool:
        """Whether one is on in the second stage alone."""
        return self._second is not None

    @contextmanager
    def mounted(
        self, files: Sequence[Path | tuple[Path, float]], second: tuple[Path, float] | None = None
    ) -> Iterator[None]:
        """Put files on the model, each at strength 1 or its own, until the block ends.

        Args:
            files: on in all stages.
            second: on in the second stage alone.

        Raises:
            FileNotFoundError: there is no such file.
            AdapterError: a file does not fit the model.
            RuntimeError: another adapter is on the model.
        """
        wanted = [file if isinstance(file, tuple) else (file, 1.0) for file in files]
        for file, _ in [*wanted, *([] if second is None else [second])]:
            if not file.is_file():
                raise FileNotFoundError(f"there is no LoRA file {file}; the stage train-lora writes it")
        if self._mounted:
            raise RuntimeError("an adapter is on the model already; leave its `with` first")
        self._mounted = True
        try:
            for number, (file, strength) in enumerate(wanted):
                self._load(file, f"{ADAPTER}{number}")
                self._everywhere.append((f"{ADAPTER}{number}", strength))
            if second is not None:
                self._load(second[0], SECOND_ADAPTER)
                self._second = (SECOND_ADAPTER, second[1])
            if second is not None or len(wanted) > 1 or any(strength != 1 for _, strength in wanted):
                self._use(self._everywhere)
            yield
        finally:
            self._pipeline.unload_lora_weights()
            self._everywhere, self._second, self._mounted = [], None, False

    def use_in_stage(self, stage: int) -> None:
        """Let those of the first or of the second stage be on, where they differ."""
        if self._second is not None:
            self._use(self._everywhere if stage == 1 else [*self._everywhere, self._second])

    def _use(self, adapters: Sequence[tuple[str, float]]) -> None:
        transformer = self._pipeline.transformer
        if not adapters:
            transformer.disable_adapters()
            return
        transformer.enable_adapters()
        self._pipeline.set_adapters([name for name, _ in adapters], [strength for _, strength in adapters])

    def _load(self, file: Path, name: str) -> None:
        transformer = self._pipeline.transformer
        names = _check_keys(file)
        try:
            if is_lycoris(names):
                # diffusers' pipeline takes LoRAs alone.
                load_lycoris(transformer, _own_names(file), name)
                return
            self._pipeline.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=name,
                local_files_only=True,
                use_safetensors=True,
            )
        except (ValueError, RuntimeError, KeyError) as error:
            raise AdapterError(f"{file} does not fit the model: {error}") from error
        # It was made where the weights are that it goes beside.
        named = transformer.named_parameters()
        self._placement.hold_adapter(p for key, p in named if ".lora_" in key)


def _own_names(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}


def _check_keys(file: Path) -> list[str]:
    """Refuse what diffusers would take without a word and not apply; the names of what is there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise AdapterError(f"{file} is not a safetensors file: {error}") from error
    return require_names(file, names)
