"""What a LoRA file is made for, from its header alone: asked before a training, and not after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.tensor_file import read_tensor_file
from ltxcore.models.lora.header import SHOWN, AdapterError
from ltxcore.models.lora.names import COMFYUI, DIFFUSERS, WEIGHTS, A, B, TensorName, parse_all

PREFIXES: Final = (DIFFUSERS, COMFYUI)
"""The names of the transformer that `LTX2Pipeline.load_lora_weights` reads."""


def require_names(file: Path, names: Iterable[str]) -> list[str]:
    """The names of an adapter's tensors, if all are of the transformer and such as diffusers reads.

    Raises:
        AdapterError: some are not: diffusers would take them without a word and not apply them.
    """
    names = list(names)
    foreign = [name for name in names if not name.startswith(PREFIXES)]
    if foreign or not names:
        raise AdapterError(
            f"{file} must hold LoRA weights of the transformer alone, named {' or '.join(PREFIXES)}...; "
            f"found {', '.join(foreign[:SHOWN]) or 'nothing'}"
        )
    return names


def require_adapter(file: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
    """See that a file is an adapter, and of this transformer where its weights' shapes are known.

    Args:
        file: a safetensors file.
        shapes: name -> shape of the transformer's weights; None where the model is not here yet.

    Raises:
        AdapterError: it is of another kind, or for another model; says what was found.
    """
    try:
        found = read_tensor_file(file).tensors
    except ModelError as error:
        raise AdapterError(str(error)) from error
    require_names(file, found)
    names = parse_all(found)
    odd = [name.stored for name in names if name.part == WEIGHTS]
    if odd:
        raise AdapterError(
            f"{file} is not a LoRA, LoKr or LoHa: it holds {', '.join(odd[:SHOWN])}; give an adapter's file"
        )
    if shapes is None:
        return
    for name in names:
        _require_fit(file, name, found[name.stored].shape, shapes)


def _require_fit(
    file: Path, name: TensorName, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    weight = shapes.get(f"{name.module}.weight")
    if weight is None:
        raise AdapterError(
            f"{file} is for another model: it changes {name.module}, which this transformer does not have"
        )
    wrong = (name.part == A and shape[-1] != weight[1]) or (name.part == B and shape[0] != weight[0])
    if wrong:
        raise AdapterError(
            f"{file} is for another model: its {name.written.removesuffix('.weight')} of {name.module} is "
            f"{list(shape)}, and the layer here {list(weight)}"
        )
