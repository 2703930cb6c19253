"""Host memory while a transformer is loaded in int8: quantised on the way in, or loaded and then quantised.

Writes a random checkpoint of full-width LTX-2.0 blocks (3 GB in bf16), loads it in processes of their own,
and compares their peaks (ru_maxrss) with what stays resident:

    python -m bench.load_peak [--layers N]

The number printed last is the peak of load-then-quantise above the imports, divided by ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.machine import describe_machine, write_table
from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.plan import GIB
from ltxcore.models.files.source import ModelSource
from ltxcore.models.versions import VERSIONS

PRECISION = "int8-quanto"
CHUNK_BYTES = 64 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=3, help="blocks of 0.77 GB each")
    layers = parser.parse_args().layers
    with tempfile.TemporaryDirectory(prefix="load-peak-") as directory:
        root = Path(directory)
        stored = _measure(write_checkpoint, root, layers)["value"]
        source = source_of(root)
        result = source.resident_bytes("transformer", 2)
        runs = {
            "imports alone": _measure(import_only),
            "load, then quantise": _measure(load_then_quantise, root),
            "ours, first load": _measure(load_ours, root),
            "ours, second load": _measure(load_ours, root),
        }
    floor = runs["imports alone"]["peak"]
    title = (
        f"checkpoint {stored / GIB:.2f} GiB in bf16, resident in int8 {result / GIB:.2f} GiB; "
        f"{describe_machine()}"
    )
    rows = [[name, *_row(run, floor, result)] for name, run in runs.items()]
    write_table(
        "load_peak", title, ["run", "peak GiB", "above the imports GiB", "times the result", "seconds"], rows
    )
    ours, theirs = (runs[name]["peak"] - floor for name in ("ours, first load", "load, then quantise"))
    print(f"{theirs / ours:.2f}")


def source_of(root: Path) -> ModelSource:
    """The checkpoint as a model of which only the transformer is there."""
    return ModelSource(root, VERSIONS["2.0"], root, root / "models", transformer_precision=PRECISION)


def write_checkpoint(root: Path, layers: int) -> int:
    """Random bf16 weights of `layers` full-width blocks; returns their size in bytes."""
    import torch
    from diffusers import LTX2VideoTransformer3DModel

    from ltxcore.models.files.writing import Part, Pending, write_tensor_file

    config = {**VERSIONS["2.0"].transformer, "num_layers": layers}
    with torch.device("meta"):
        model = LTX2VideoTransformer3DModel(**config)
    folder = root / "transformer"
    folder.mkdir()
    model.save_config(folder)
    noise = torch.randn(CHUNK_BYTES // 2, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()

    def values(shape: tuple[int, ...]) -> list[torch.Tensor]:
        count = torch.Size(shape).numel()
        return [noise.repeat(-(-count // noise.numel()))[:count].view(shape)]

    pending = [
        Pending((Part(name, torch.bfloat16, tuple(t.shape)),), lambda shape=tuple(t.shape): values(shape))
        for name, t in model.state_dict().items()
    ]
    write_tensor_file(folder / "diffusion_pytorch_model.safetensors", pending)
    (root / "models").mkdir()
    # Hashing is no part of loading: the stages' keys need the fingerprint whatever the precision.
    source_of(root).fingerprint("transformer")
    return sum(t.numel() * 2 for t in model.state_dict().values())


def import_only() -> None:
    import optimum.quanto  # noqa: F401
    from diffusers import LTX2VideoTransformer3DModel  # noqa: F401

    import ltxcore.models.files.loading  # noqa: F401


def load_ours(root: Path) -> Any:
    import torch

    import_only()
    from ltxcore.models.files.loading import load_transformer

    return load_transformer(source_of(root), torch.bfloat16, "cpu")


def load_then_quantise(root: Path) -> Any:
    import torch

    import_only()
    from diffusers import LTX2VideoTransformer3DModel
    from optimum.quanto import freeze, qint8, quantize

    model = LTX2VideoTransformer3DModel.from_pretrained(root / "transformer", torch_dtype=torch.bfloat16)
    quantize(model, weights=qint8, include="transformer_blocks.*", exclude="*to_gate_logits")
    freeze(model)
    return model


def _row(run: dict[str, Any], floor: int, result: int) -> list[str]:
    above = run["peak"] - floor
    return [
        f"{run['peak'] / GIB:.2f}",
        f"{above / GIB:.2f}",
        f"{above / result:.2f}",
        f"{run['seconds']:.1f}",
    ]


def _measure(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Peak and seconds of `work` in a process of its own; `value` where it returns a number."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_tell, args=(send, work, *arguments))
    process.start()
    send.close()
    try:
        measured: dict[str, Any] = json.loads(receive.recv())
    except EOFError:
        process.join()
        raise SystemExit(f"{work.__name__} ended with status {process.exitcode}") from None
    process.join()
    return measured


def _tell(send: Any, work: Callable[..., Any], *arguments: Any) -> None:
    begun = time.monotonic()
    made = work(*arguments)
    measured = {
        "peak": measure_peaks().rss_bytes,
        "seconds": time.monotonic() - begun,
        "value": made if isinstance(made, int) else None,
    }
    send.send(json.dumps(measured))


if __name__ == "__main__":
    main()
