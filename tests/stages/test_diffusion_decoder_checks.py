"""Renderings that the diffusion decoder cannot make are refused before the first stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.recipe import Recipe
from ltxcore.models.files.source import ModelSource
from ltxcore.stages.render_validation.memory import weights_bytes
from tests.stages.conftest import Bench
from tests.stages.test_guidance_stages import small_pictures, with_section
from tests.stages.test_upscaled_stages import refused
from tests.unit.validation.diffusion_decoders import tiny_decoder, write_pack


def decoded(bench: Bench, source: ModelSource, file: Path | None, **more: Any) -> Bench:
    bench = with_section(small_pictures(bench), "validation", decoder="diffusion", **more)
    return with_section(
        bench,
        "model",
        pretrained_model_name_or_path=str(source.root),
        diffusion_decoder=None if file is None else str(file),
    )


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_other_versions_have_none(
    version: str, bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    file = write_pack(tiny_decoder(tinies["2.5"]), tmp_path / "video-vae.safetensors")
    told = refused(decoded(bench, tinies[version], file))
    assert f"is for LTX-2.5, and the model is an LTX-{version}, which has the convolutional decoder" in told
    assert "write decoder: conv" in told


def test_what_is_not_there_or_does_not_fit_is_refused(
    bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    newest = tinies["2.5"]
    own = tiny_decoder(newest)
    file = write_pack(own, tmp_path / "video-vae.safetensors")
    fitting = decoded(bench, newest, file)
    assert not refused(fitting)
    values = sum(tensor.numel() for tensor in own.state_dict().values())
    plain = with_section(fitting, "validation", decoder="conv")
    # With what the file has of training beside it: gates, and heads of previews.
    assert weights_bytes(fitting.ctx) - weights_bytes(plain.ctx) == pytest.approx(4 * values, rel=0.05)
    missing = refused(decoded(bench, newest, None))
    assert "model.diffusion_decoder: Lightricks/LTX-2.5:vae/ltx-2.5-video-vae-bf16.safetensors" in missing
    assert "is nothing on this machine" in refused(decoded(bench, newest, tmp_path / "none.safetensors"))
    later = decoded(bench, newest, None)
    later = with_section(later, "model", diffusion_decoder="someone/ltx:vae.safetensors")
    assert not refused(later), "what is on the hub is looked at once it is here"
    conv = tmp_path / "conv.safetensors"
    shutil.copy(newest.weight_files("vae")[0], conv)
    assert "has no diffusion decoder: it holds" in refused(decoded(bench, newest, conv))
    narrow = write_pack(tiny_decoder(newest, latent_channels=8), tmp_path / "narrow.safetensors")
    assert "latents of 8 channels, and those of" in refused(decoded(bench, newest, narrow))
    wide = tiny_decoder(newest, decoder_stage_kernels=((3, 3, 3), *[(3, 3, 3)] * 3))
    told = refused(decoded(bench, newest, write_pack(wide, tmp_path / "wide.safetensors")))
    assert "64x64 and 9 frames is too small for the diffusion decoder, which takes 9 frames of 96x96" in told
    # Of a model that is downloaded later the version is known, and that its parts beside the pipeline are not
    # downloaded with it.
    for name, said in (
        ("LTX-2.3", "and the model is an LTX-2.3"),
        ("LTX-2.5", "what is downloaded of Light"),
    ):
        hub = with_section(later, "model", pretrained_model_name_or_path=f"Lightricks/{name}")
        assert said in refused(with_section(hub, "model", diffusion_decoder=None))
    assert "all data is sound" in refused(sound_alone(fitting))


def sound_alone(bench: Bench) -> Bench:
    sounds = "- {id: s, dataset_type: audio, instance_data_dir: clips, audio: {audio_only: true}}\n"
    (bench.root / "datasets.yaml").write_text(sounds + "- {id: text, dataset_type: text_embeds}\n")
    return bench


def test_pictures_that_nobody_renders_are_refused() -> None:
    with pytest.raises(ValueError, match="decoder: diffusion makes pictures, and validation_modality: audio"):
        Recipe.model_validate({"validation": {"decoder": "diffusion", "validation_modality": "audio"}})
