"""`python -m ltxcore.models.built_shapes`: the tables of released shapes, from models on the meta device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ltxcore.models.shapes import TABLES, Shapes
from ltxcore.models.versions import VERSIONS

INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


def built_shapes(name: str) -> Mapping[str, Shapes]:
    """What `full_shapes` says of a version, from diffusers' classes; it takes seconds and no memory."""
    from diffusers import (
        AutoencoderKLLTX2Video,
        LTX2VideoDiffusionDecoderModel,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors

    version = VERSIONS[name]
    second = version.diffusion_decoder
    return {
        "transformer": _shapes(lambda: LTX2VideoTransformer3DModel(**version.transformer)),
        "connectors": _shapes(lambda: LTX2TextConnectors(**version.connectors)),
        "vae": _shapes(lambda: AutoencoderKLLTX2Video(**version.video_vae)),
        "latent_upsampler": _shapes(lambda: LTX2LatentUpsamplerModel(**version.upsampler)),
        **(
            {}
            if second is None
            else {"diffusion_decoder": _shapes(lambda: LTX2VideoDiffusionDecoderModel(**second))}
        ),
    }


def _shapes(build: Callable[[], Any]) -> Shapes:
    import torch

    with torch.device("meta"):
        model = build()
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def table_of(components: Mapping[str, Shapes]) -> str:
    """The lines of a table; weights of numbered layers that are alike share a line."""
    return "".join(
        f"{component} {pattern} {'x'.join(map(str, shape)) or 'scalar'}\n"
        for component, shapes in components.items()
        for pattern, shape in _patterns(shapes)
    )


def _patterns(shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    layers: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        index = INDEX.search(name)
        if index is not None:
            layers.setdefault(INDEX.sub("{}", name, count=1), {})[int(index[0])] = shape
    for name, shape in shapes.items():
        index = INDEX.search(name)
        pattern = name if index is None else INDEX.sub("{}", name, count=1)
        alike = layers.get(pattern, {})
        if index is None or set(alike.values()) != {shape} or set(alike) != set(range(len(alike))):
            yield name, shape
        elif index[0] == "0":
            yield pattern.replace("{}", f"{{{len(alike)}}}"), shape


def main() -> None:
    """Write the table of every version."""
    for name in VERSIONS:
        file = Path(__file__).parent / TABLES / f"{name}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(table_of(built_shapes(name)), encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main()
