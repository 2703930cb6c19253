"""Keeps quantised weights on disk by fingerprint, so that the second load only reads them.

quanto's linears only: their inner tensors have names and a form that the library documents. One safetensors
file a component, precision and type; whoever wants the space back deletes it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from ltxcore.models.errors import ModelError
from ltxcore.models.files.assembling import place, replace_linears
from ltxcore.models.files.damage import DIRECTORY
from ltxcore.models.files.hashes import remembered_hashes
from ltxcore.models.files.quantise import Quantiser
from ltxcore.models.files.reading import Reader
from ltxcore.models.files.tensor_file import read_tensor_file
from ltxcore.models.files.weights import Weights, plain_weights
from ltxcore.models.files.writing import present_tensor, write_tensor_file
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.locks import exclusive


def quantised_file(models_dir: Path, component: str, content: str, dtype: torch.dtype) -> Path:
    """Where a component's quantised weights are kept.

    Args:
        content: `ModelSource.fingerprint` of the component, which knows its precision.
    """
    key = fingerprint({"content": content, "dtype": str(dtype), "quanto": version("optimum-quanto")})
    return models_dir / DIRECTORY / f"{component}-{key[:32]}.safetensors"


def keep(model: nn.Module, path: Path) -> None:
    """Write a quantised model's weights, tensor by tensor, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent / f".{path.name}.lock", "keeping quantised weights"):
        if not path.is_file():
            write_tensor_file(
                path, [present_tensor(name, tensor) for name, tensor in model.state_dict().items()]
            )
            # `ltx2 verify` compares what is there later with what was written.
            remembered_hashes([path], path.parents[1])


def fill_from(
    model: nn.Module,
    path: Path,
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device | str,
    quantiser: Quantiser,
    quantised: frozenset[str],
) -> None:
    """Give an empty model the weights that `keep` wrote.

    Args:
        weights: those of the unquantised component; their names say what the file must hold.

    Raises:
        ModelError: the file is cut short or lacks a weight; it can be deleted, and is then made anew.
    """
    target = torch.device(device)
    stored = _stored(path)
    replace_linears(model, quantiser, quantised, dtype, target)
    with Reader(target) as reader:
        for name in weights:
            if name in quantised:
                _fill_linear(model, name.removesuffix(".weight"), stored, reader)
            elif name in stored:
                place(model, name, reader.read(stored[name]))
            else:
                raise ModelError(f"{path} lacks {name}; delete the file, and it is made anew")


def _stored(path: Path) -> Weights:
    try:
        return plain_weights(read_tensor_file(path).tensors)
    except ModelError as error:
        raise ModelError(
            f"the kept weights {path} are damaged; delete the file, and it is made anew"
        ) from error


def _fill_linear(model: nn.Module, name: str, stored: Weights, reader: Reader) -> None:
    module = model.get_submodule(name)
    inner = {
        key.removeprefix(f"{name}."): reader.read(weight)
        for key, weight in stored.items()
        if key.startswith(f"{name}.weight.")
    }
    missing, _ = module.load_state_dict(inner, strict=False, assign=True)
    lost = [key for key in missing if key.startswith("weight")]
    if lost:
        raise ModelError(f"the quantised weights lack {name}.{lost[0]}; delete the file, and it is made anew")
    module.requires_grad_(False)
