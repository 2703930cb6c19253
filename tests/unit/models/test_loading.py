"""Loading one component at a time, both versions, from the layouts that are about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.tiny.model import write_tiny
from ltxcore.models.versions import VERSIONS

LOADERS = {
    "transformer": loading.load_transformer,
    "connectors": loading.load_connectors,
    "vae": loading.load_video_vae,
    "audio_vae": loading.load_audio_vae,
    "vocoder": loading.load_vocoder,
}


def _source(directory: Path, version: str = "2.0") -> ModelSource:
    write_tiny(directory, version)
    return resolve_model(ModelSettings(pretrained_model_name_or_path=str(directory)), directory.parent)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_component_is_what_is_on_disk_frozen_and_in_the_dtype_asked_for(
    tinies: dict[str, ModelSource], version: str
) -> None:
    source = tinies[version]
    for name, load in LOADERS.items():
        model = load(source, torch.bfloat16, "cpu")
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        (file,) = source.weight_files(name)
        stored = load_file(file)
        loaded = model.state_dict()
        assert set(stored) == set(loaded)
        assert all(torch.equal(loaded[key], stored[key].to(torch.bfloat16)) for key in stored)
    tokenizer, text_model = loading.load_text_encoder(source, torch.bfloat16, "cpu")
    assert tokenizer.padding_side == "left"
    assert {p.dtype for p in text_model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in text_model.parameters())
    expected = "LTX2Vocoder" if version == "2.0" else "LTX2VocoderWithBWE"
    assert type(loading.load_vocoder(source, torch.float32, "cpu")).__name__ == expected


def test_guidance_by_perturbation_works_where_the_configuration_turned_it_off(tmp_path: Path) -> None:
    source = _source(tmp_path / "tiny")
    config = source.root / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"perturbed_attn": False}))
    transformer = loading.load_transformer(source, torch.float32, "cpu")

    def output(blocks: list[int] | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            video, _ = transformer(
                hidden_states=torch.randn(1, 4, 16, generator=generator),
                audio_hidden_states=torch.randn(1, 3, 8, generator=generator),
                encoder_hidden_states=torch.randn(1, 16, 48, generator=generator),
                audio_encoder_hidden_states=torch.randn(1, 16, 48, generator=generator),
                timestep=torch.tensor([500.0]),
                sigma=torch.tensor([500.0]),
                num_frames=1,
                height=2,
                width=2,
                audio_num_frames=3,
                spatio_temporal_guidance_blocks=blocks,
                use_cross_timestep=True,
                return_dict=False,
            )
        return video

    assert not torch.allclose(output(None), output([1]))


@pytest.mark.parametrize("version", ["2.0", "2.5"])
@pytest.mark.parametrize("layout", ["language_model.model.", "model.language_model.", "model."])
def test_the_text_tower_comes_out_of_every_layout_and_equals_the_whole_gemma(
    tmp_path: Path, version: str, layout: str
) -> None:
    import transformers

    source = _source(tmp_path / "tiny", version)
    (kind,) = source.config("text_encoder")["architectures"]
    whole = getattr(transformers, kind).from_pretrained(source.component("text_encoder")).eval()
    (file,) = source.weight_files("text_encoder")
    tensors = load_file(file)
    written = "language_model.model." if version == "2.0" else "model.language_model."
    renamed = {key.replace(written, layout): value for key, value in tensors.items()}
    if layout == "model.":
        config = source.component("text_encoder") / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text())["text_config"]))
        renamed = {key: value for key, value in renamed.items() if key.startswith("model.")}
    save_file(renamed, file, {"format": "pt"})

    tower = loading.load_text_model(source, torch.float32, "cpu")
    assert not [name for name, _ in tower.named_parameters() if "vision" in name]
    call = {
        "input_ids": torch.tensor([[0, 0, 0, 2, 70, 80], [2, 90, 91, 92, 93, 94]]),
        "attention_mask": torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6]),
        "output_hidden_states": True,
    }
    with torch.no_grad():
        pairs = zip(whole(**call).hidden_states, tower(**call).hidden_states, strict=True)
    assert all(torch.equal(a[0, 3:], b[0, 3:]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_what_does_not_fit_is_an_error_that_names_it(tmp_path: Path) -> None:
    source = _source(tmp_path / "tiny")
    newer = _source(tmp_path / "newer", "2.3")
    (file,) = source.weight_files("connectors")
    tensors = load_file(file)
    tensors.pop("text_proj_in.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"connectors in .*: 1 weights are missing, e\.g\. text_proj_in\.weight"
    ):
        loading.load_connectors(source, torch.float32, "cpu")

    (file,) = source.weight_files("text_encoder")
    tensors = load_file(file)
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"text encoder in .*: 1 weights are missing, e\.g\. norm\.weight"):
        loading.load_text_encoder(source, torch.float32, "cpu")

    (newer.root / "vocoder").rename(source.root / "vocoder-of-2.3")
    (source.root / "vocoder").rename(source.root / "vocoder-of-2.0")
    (source.root / "vocoder-of-2.3").rename(source.root / "vocoder")
    with pytest.raises(ModelError, match=r"is a LTX2VocoderWithBWE, but LTX-2\.0 has a LTX2Vocoder"):
        loading.load_vocoder(source, torch.float32, "cpu")

    config = source.component("text_encoder") / "config.json"
    config.write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ModelError, match=r"is a t5, but LTX-2\.0 reads Gemma 3"):
        loading.load_text_encoder(source, torch.float32, "cpu")
