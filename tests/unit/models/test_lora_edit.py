"""Files made of LoRA files change the model by what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ltxcore.models.lora.description import describe
from ltxcore.models.lora.edit import TARGETS, Target, convert, merge, resize
from ltxcore.models.lora.factors import Factors, Loss, padded, shrunk
from ltxcore.models.lora.header import AdapterError, read_header
from tests.unit.models.lora_files import LAYERS, applied, changes, draw, rounding, write

Shapes = dict[str, tuple[int, int]]


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def decomposed(shapes: Shapes) -> float:
    """The same for a change whose factors went through QR: sums over the rows and columns of a layer."""
    return rounding(max(sum(shapes[name]) for name in LAYERS))


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], share: float) -> None:
    """That changes are equal up to a share of their size."""
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert (found[name] - change).norm() <= share * change.norm()


@pytest.mark.parametrize("style", ["diffusers", "comfyui", "bare", "kohya", "down", "default", "unmapped"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_converted_file_is_loaded_whole_and_changes_the_same(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path, style: str, target: Target
) -> None:
    pairs = draw(layer_shapes)
    file = write(tmp_path / "x.safetensors", pairs, style, alpha=2.0, metadata={"trigger": "a zork"})
    made = convert(read_header(file), tmp_path / "y.safetensors", target)
    again = describe(read_header(made.path))
    by_name = {found.loader: found for found in again.loadings}
    assert by_name["ComfyUI" if target == "comfyui" else "diffusers"].whole
    assert by_name["diffusers"].whole, "diffusers reads ComfyUI's names, too"
    # bf16 has 8 bits; float32 as it was.
    close(applied(lora_base, made.path), changes(pairs, 0.5), 2**-7 if target == "comfyui" else rounding())
    kept = metadata_of(made.path)
    assert kept["trigger"] == "a zork"
    (step,) = json.loads(kept["ltx2_history"])
    assert (step["operation"], step["of"][0]["file"]) == ("convert", "x.safetensors")


def test_alphas_that_differ_from_layer_to_layer_survive_both_ways(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path
) -> None:
    ranks = dict(zip(LAYERS, (2, 4, 4), strict=True))
    alphas = dict(zip(LAYERS, (2.0, 8.0, 1.0), strict=True))
    pairs = {name: draw(layer_shapes, [name], rank)[name] for name, rank in ranks.items()}
    tensors = {}
    for name, (a, b) in pairs.items():
        part = name.replace("audio_proj_in", "audio_patchify_proj")
        tensors[f"{part}.lora_A.weight"], tensors[f"{part}.lora_B.weight"] = a, b
        tensors[f"{part}.alpha"] = torch.tensor(alphas[name])
    save_file(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    expected = {
        name: change
        for name in LAYERS
        for change in changes({name: pairs[name]}, alphas[name] / ranks[name]).values()
    }
    there = convert(header, tmp_path / "d.safetensors", "diffusers")
    close(applied(lora_base, there.path), dict(zip(LAYERS, expected.values(), strict=True)), rounding())
    assert read_header(there.path).scales == header.scales
    back = convert(read_header(there.path), tmp_path / "c.safetensors", "comfyui")
    close(applied(lora_base, back.path), dict(zip(LAYERS, expected.values(), strict=True)), 2**-7)


@pytest.mark.parametrize("target", TARGETS)
def test_an_exact_sum_is_the_weighted_sum_of_the_changes(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path, target: Target
) -> None:
    one, other = draw(layer_shapes, LAYERS[:2], rank=4), draw(layer_shapes, LAYERS[1:], rank=2, seed=1)
    files = [
        write(tmp_path / "a.safetensors", one, "diffusers", alpha=2.0),
        write(tmp_path / "b.safetensors", other, "kohya", alpha=1.0),
    ]
    headers = [read_header(file) for file in files]
    made = merge(headers, [1.0, -0.5], tmp_path / "sum.safetensors", target)
    assert made.ranks == (2, 4, 6)
    assert not made.loss.by_layer
    expected: dict[str, torch.Tensor] = {}
    for part in (changes(one, 0.5), changes(other, -0.5 * 0.5)):
        for name, change in part.items():
            expected[name] = expected.get(name, torch.zeros_like(change)) + change
    close(applied(lora_base, made.path), expected, 2**-6 if target == "comfyui" else rounding(6))
    (step,) = json.loads(metadata_of(made.path)["ltx2_history"])
    assert [(source["file"], source["weight"]) for source in step["of"]] == [
        ("a.safetensors", 1.0),
        ("b.safetensors", -0.5),
    ]


def test_a_resized_file_errs_by_what_is_printed_and_no_rank_4_is_nearer(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path
) -> None:
    pairs = draw(layer_shapes, rank=8)
    file = write(tmp_path / "x.safetensors", pairs, "diffusers", alpha=4.0)
    made = resize(read_header(file), tmp_path / "y.safetensors", "diffusers", 4)
    assert made.ranks == (4,)
    whole, found = changes(pairs, 0.5), applied(lora_base, made.path)
    left = sum(float((found[name] - change).square().sum()) for name, change in whole.items())
    total = sum(float(change.square().sum()) for change in whole.values())
    allowed = decomposed(layer_shapes) * (total / left) ** 0.5
    assert made.loss.relative == pytest.approx((left / total) ** 0.5, rel=allowed)
    for name, change in whole.items():
        values = torch.linalg.svdvals(change.double())
        nearest = float((values[4:].square().sum() / values.square().sum()).sqrt())
        assert made.loss.by_layer[name] == pytest.approx(nearest, abs=decomposed(layer_shapes))
    same = resize(read_header(file), tmp_path / "z.safetensors", "diffusers", 8)
    assert same.loss.relative < decomposed(layer_shapes)
    close(applied(lora_base, same.path), whole, decomposed(layer_shapes))


def test_a_merge_to_a_rank_of_equal_files_loses_nothing(
    lora_base: Path, layer_shapes: Shapes, tmp_path: Path
) -> None:
    pairs = draw(layer_shapes)
    header = read_header(write(tmp_path / "x.safetensors", pairs))
    made = merge([header, header], [0.25, 0.75], tmp_path / "y.safetensors", "diffusers", rank=4)
    assert made.loss.relative < decomposed(layer_shapes)
    close(applied(lora_base, made.path), changes(pairs), decomposed(layer_shapes))


def test_a_fresh_adapter_takes_a_smaller_one_exactly() -> None:
    a, b, start = torch.randn(2, 6), torch.randn(5, 2), torch.randn(4, 6)
    found = padded(Factors(a, b), start)
    assert torch.equal(found.b @ found.a, b @ a)
    assert torch.equal(found.a[2:], start[2:])


def test_a_zero_change_shrinks_to_zero() -> None:
    loss = Loss()
    found = shrunk(Factors(torch.randn(4, 6), torch.zeros(5, 4)), 2, "x", loss)
    assert not (found.b @ found.a).any()
    assert loss.relative == 0.0


def test_what_cannot_be_is_refused_and_leaves_nothing(layer_shapes: Shapes, tmp_path: Path) -> None:
    pairs = draw(layer_shapes)
    header = read_header(write(tmp_path / "x.safetensors", pairs))
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"somebody's")
    with pytest.raises(AdapterError, match="is there already"):
        convert(header, taken, "comfyui")
    assert taken.read_bytes() == b"somebody's"
    with pytest.raises(AdapterError, match=r"must end in \.safetensors"):
        convert(header, tmp_path / "y.bin", "comfyui")
    dora = dict(pairs)
    tensors = {f"transformer.{n}.lora_A.weight": a for n, (a, _) in dora.items()}
    tensors |= {f"transformer.{n}.lora_B.weight": b for n, (_, b) in dora.items()}
    tensors |= {f"transformer.{n}.lora_magnitude_vector": torch.ones(len(b)) for n, (_, b) in dora.items()}
    save_file(tensors, tmp_path / "dora.safetensors")
    lengths = read_header(tmp_path / "dora.safetensors")
    before = sorted(tmp_path.iterdir())
    for make in (
        lambda: merge([header, lengths], [1, 1], tmp_path / "y.safetensors", "comfyui"),
        lambda: resize(lengths, tmp_path / "y.safetensors", "comfyui", 2),
        lambda: convert(lengths, tmp_path / "y.safetensors", "comfyui"),
    ):
        with pytest.raises(AdapterError, match="is a DoRA"):
            make()
    old = read_header(write(tmp_path / "old.safetensors", pairs, metadata={"base_version": "2.0"}))
    new = read_header(write(tmp_path / "new.safetensors", pairs, metadata={"base_version": "2.3"}))
    with pytest.raises(AdapterError, match=r"LTX-2\.0, and .* one of LTX-2\.3"):
        merge([old, new], [1, 1], tmp_path / "y.safetensors", "comfyui")
    assert sorted(tmp_path.iterdir()) == sorted([*before, old.path, new.path])


def test_a_file_appears_whole_or_not_at_all(layer_shapes: Shapes, tmp_path: Path) -> None:
    """While it is written, and after a fault on the way, there is no file of that name."""
    header = read_header(write(tmp_path / "x.safetensors", draw(layer_shapes)))
    seen = []
    made = tmp_path / "out" / "y.safetensors"
    made.parent.mkdir()

    def broken(*_: object) -> Factors:
        seen.append(made.exists())
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltxcore.models.lora.factors.LoraReader.factors", broken)
        with pytest.raises(OSError, match="no space left"):
            resize(header, made, "diffusers", 2)
    assert seen == [False]
    assert not list(made.parent.iterdir())
