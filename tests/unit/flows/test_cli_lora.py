"""`ltx2 lora` as people and pipes see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from flows.cli.app import app
from tests.unit.flows.test_cli_imports import imported_by

LAYERS = ("transformer_blocks.0.attn1.to_q", "audio_caption_projection.linear_1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A diffusers file of two narrow layers, with alpha in its header."""
    return write(tmp_path / "cat.safetensors")


def write(file: Path, prefix: str = "transformer") -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in LAYERS:
        tensors[f"{prefix}.{layer}.lora_A.weight"] = torch.randn(4, 64, generator=generator)
        tensors[f"{prefix}.{layer}.lora_B.weight"] = torch.randn(64, 4, generator=generator)
    config = {"transformer.r": 4, "transformer.lora_alpha": 2.0}
    header = {"trigger": "a zork", "lora_adapter_metadata": json.dumps(config)}
    save_file(tensors, file, metadata=header if prefix == "transformer" else None)
    return file


def run(*words: str | Path, columns: int = 80) -> Result:
    return CliRunner().invoke(app, ["lora", *map(str, words)], env={"COLUMNS": str(columns)})


def test_info_says_what_a_file_is_in_80_columns(file: Path) -> None:
    result = run("info", file)
    assert result.exit_code == 0
    assert max(map(len, result.output.replace(str(file), "").splitlines())) <= 80
    words = " ".join(result.output.split())
    for part in (
        "kind LoRA",
        "base LTX-2.0, which alone has its layers",
        "rank 4",
        "alpha 2 (B·A is multiplied by 0.5)",
        "layers 2, in F32",
        "targets attn1.to_q, audio_caption_projection.linear_1",
        "trigger a zork",
        "trained by diffusers and peft",
        "ComfyUI leaves out 4 of 4 tensors without an error, first transformer.",
        "diffusers loads every tensor",
    ):
        assert part in words


def test_info_as_json_has_everything(file: Path) -> None:
    (found,) = json.loads(run("info", file, "--json").output)
    assert found["versions"] == ["2.0"]
    assert found["targets"] == {"attn1.to_q": 1, "audio_caption_projection.linear_1": 1}
    assert found["loaders"]["diffusers"]["loads_all"]
    assert len(found["loaders"]["ComfyUI"]["unread"]) == 4
    assert found["trigger"] == "a zork"


def test_a_strength_that_comfyui_would_get_wrong_is_said(tmp_path: Path) -> None:
    file = write(tmp_path / "x.safetensors", "diffusion_model")
    config = {"transformer.r": 4, "transformer.lora_alpha": 8.0}
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": json.dumps(config)})
    assert "applies 0.5 times what was trained" in " ".join(run("info", file).output.split())


def test_the_commands_make_new_files_and_say_what_they_are(file: Path) -> None:
    folder = file.parent
    made = run("convert", file, "--to", "comfyui")
    assert made.exit_code == 0, made.output
    assert "2 layers, rank 4, for comfyui" in made.output
    assert (folder / "cat_comfyui.safetensors").is_file()
    merged = run(
        *("merge", file, folder / "cat_comfyui.safetensors", "-w", "1", "-w", "0.5"),
        *("--output", folder / "sum.safetensors"),
    )
    assert "2 layers, rank 8, for diffusers" in merged.output
    resized = run("resize", folder / "sum.safetensors", "--rank", "2")
    assert "relative error" in resized.output
    assert (folder / "sum_rank2.safetensors").is_file()
    text = " ".join(run("info", folder / "sum_rank2.safetensors").output.split())
    steps = (
        "convert of cat.safetensors",
        "merge of cat.safetensors x 1, cat_comfyui.safetensors x 0.5",
        "resize of sum.safetensors",
    )
    assert f"made by {'; '.join(steps)}" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("info", "nowhere.safetensors"), "cannot be read"),
        (("merge", "cat.safetensors", "-w", "1", "-w", "2", "-o", "y.safetensors"), "1 files have 2 weights"),
        (("convert", "cat.safetensors", "--to", "comfyui", "-o", "cat.safetensors"), "is there already"),
        (("resize", "cat.safetensors", "--rank", "0"), "greater than or equal to 1"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str
) -> None:
    monkeypatch.chdir(file.parent)
    refused = run(*words)
    assert refused.exit_code == 2
    assert text in " ".join(refused.stderr.split())


def test_a_folder_that_is_not_there_is_no_traceback(file: Path) -> None:
    result = run("resize", file, "--rank", "2", "--output", file.parent / "none" / "y.safetensors")
    assert result.exit_code == 1
    assert "none" in result.stderr


def test_looking_needs_no_torch(file: Path) -> None:
    assert not imported_by("lora", "info", str(file)) & {"torch", "diffusers", "peft", "prefect"}
    assert not imported_by("lora", "--help") & {"torch", "numpy", "prefect"}
