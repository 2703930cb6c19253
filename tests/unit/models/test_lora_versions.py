"""Which LTX-2 a file was trained on, and refusing it for another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltxcore.models.lora.base_version import base_version, require_version
from ltxcore.models.lora.description import describe
from ltxcore.models.lora.header import AdapterError, read_header
from ltxcore.models.lora.names import linears, reference_name

SHARED = "transformer_blocks.3.attn1.to_q"
OF_2_0 = "audio_caption_projection.linear_1"
OF_2_3 = "transformer_blocks.3.attn1.to_gate_logits"


def lora(file: Path, *layers: str, version: str = "2.3", width: int | None = None, **metadata: str) -> Path:
    """A file of layers of a released size, or of another width."""
    tensors = {}
    for layer in layers:
        out, inside = (width, width) if width else linears(version)[layer]
        tensors[f"diffusion_model.{reference_name(layer)}.lora_A.weight"] = torch.zeros(2, inside)
        tensors[f"diffusion_model.{reference_name(layer)}.lora_B.weight"] = torch.zeros(out, 2)
    save_file(tensors, file, metadata=metadata or None)
    return file


def test_layers_of_one_version_alone_tell_it(tmp_path: Path) -> None:
    def fits(*layers: str, version: str) -> set[str]:
        found = base_version(read_header(lora(tmp_path / "x.safetensors", *layers, version=version)))
        return set(found.possible)

    assert fits(SHARED, OF_2_0, version="2.0") == {"2.0"}
    assert "2.0" not in fits(SHARED, OF_2_3, version="2.3")
    assert {"2.0", "2.3"} <= fits(SHARED, version="2.0")
    # The modulation of 2.3 is wider: its layers have other shapes.
    assert "2.0" not in fits(SHARED, "time_embed.linear", version="2.3")
    assert fits(SHARED, "transformer_blocks.4.attn1.to_q", "time_embed.linear", version="2.0") == {"2.0"}


@pytest.mark.parametrize(
    ("metadata", "version"),
    [
        ({"base_version": "2.3"}, "2.3"),
        ({"ss_base_model_version": "ltx2.3"}, "2.3"),
        ({"model_version": "2.5.0"}, "2.5"),
        ({"ss_base_model_version": "ltx2"}, None),
        ({"base_model": "Lightricks/LTX-2.3"}, "2.3"),
        ({"modelspec.architecture": "ltx-video-2.5/lora"}, "2.5"),
        ({"ss_sd_model_name": "ltx-2-19b-dev.safetensors"}, "2.0"),
        ({"ss_sd_model_name": "ltx-2-22b.safetensors"}, None),
        ({"recipe": json.dumps({"model": {"pretrained_model_name_or_path": "Lightricks/LTX-2.3"}})}, "2.3"),
        ({"recipe": "no json"}, None),
    ],
)
def test_the_header_has_the_last_word(tmp_path: Path, metadata: dict[str, str], version: str | None) -> None:
    found = base_version(read_header(lora(tmp_path / "x.safetensors", SHARED, **metadata)))
    assert found.named_version == version


def test_a_lora_of_another_version_is_refused_with_what_to_give(tmp_path: Path) -> None:
    old = read_header(lora(tmp_path / "old.safetensors", SHARED, OF_2_0, version="2.0"))
    named = read_header(lora(tmp_path / "named.safetensors", SHARED, base_version="2.0"))
    new = read_header(lora(tmp_path / "new.safetensors", SHARED, OF_2_3, version="2.3"))
    open_ = read_header(lora(tmp_path / "open.safetensors", SHARED))
    for header in (old, named):
        require_version(header, "2.0")
    with pytest.raises(
        AdapterError, match=r"changes audio_caption_projection\.linear_1, .*LTX-2\.0: give a LoRA of LTX-2\.3"
    ):
        require_version(old, "2.3")
    with pytest.raises(AdapterError, match=r"is a LoRA of LTX-2\.0 .*LTX-2\.3; give a LoRA of LTX-2\.3"):
        require_version(named, "2.3")
    with pytest.raises(AdapterError, match=r"is a LoRA of LTX-2\.0"):
        require_version(named, "2.5")
    with pytest.raises(AdapterError, match=r"to_gate_logits, which LTX-2\.0 does not have"):
        require_version(new, "2.0")
    for version in ("2.0", "2.3"):
        require_version(open_, version)


def test_a_tiny_models_lora_is_of_a_version_and_of_no_released_size(tmp_path: Path) -> None:
    found = base_version(read_header(lora(tmp_path / "x.safetensors", SHARED, OF_2_0, width=64)))
    assert found.possible == ("2.0",)
    assert not found.released_size


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("transformer.single_blocks.0.linear1.lora_A.weight",), "not B"),
        (("unet.down_blocks.0.lora_A.weight", "unet.down_blocks.0.lora_B.weight"), "something else: unet"),
        (("transformer.transformer_blocks.0.attn1.to_q.weight",), "something else"),
        (("transformer.transformer_blocks.0.attn1.to_q.alpha",), "no factors"),
        ((), "it is empty"),
    ],
)
def test_what_is_no_lora_of_ltx_is_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    file = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(2, 2) for name in names}, file)
    with pytest.raises(AdapterError, match=words):
        read_header(file)


def test_files_that_run_code_are_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(AdapterError, match=r"not a \.safetensors file"):
        read_header(file)
    with pytest.raises(AdapterError, match="is not a safetensors file"):
        read_header(file.rename(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("metadata", "trainer"),
    [
        ({"software": json.dumps({"name": "ai-toolkit", "version": "0.9"})}, "ai-toolkit 0.9"),
        ({"modelspec.implementation": "https://github.com/bghira/SimpleTuner"}, "SimpleTuner"),
        ({"ss_network_module": "networks.lora"}, "kohya's scripts or musubi-tuner (networks.lora)"),
        ({"base_fingerprint": "x", "snapshot_id": "y"}, "ltx2-flows"),
        ({"format": "pt"}, ""),
    ],
)
def test_what_trained_it(tmp_path: Path, metadata: dict[str, str], trainer: str) -> None:
    assert describe(read_header(lora(tmp_path / "x.safetensors", SHARED, **metadata))).trainer == trainer
