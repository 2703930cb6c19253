"""The table against the figures of the released models, and recognising a version on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ltxcore.models.built_shapes import built_shapes
from ltxcore.models.errors import ModelError
from ltxcore.models.files.recognise import recognise
from ltxcore.models.shapes import full_shapes
from ltxcore.models.versions import VERSIONS

# Parameters of the released models: transformer, connectors; in millions VAE encoder and decoder, audio VAE,
# vocoder.
FIGURES = {
    "2.0": (18_876_174_592, 1_431_475_200, 694.1, 528.4, 53.2, 55.6),
    "2.3": (18_988_838_144, 3_172_227_584, 318.9, 407.2, 53.2, 128.5),
    "2.5": (18_987_859_200, 3_172_227_584, 318.9, 407.2, 53.2, 128.5),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_full_size_models_have_the_released_parameter_counts(name: str) -> None:
    import diffusers
    from diffusers.pipelines import ltx2

    version = VERSIONS[name]
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLLTX2Video(**version.video_vae)
        exact = (
            diffusers.LTX2VideoTransformer3DModel(**version.transformer),
            ltx2.LTX2TextConnectors(**version.connectors),
        )
        rounded = (
            vae.encoder,
            vae.decoder,
            diffusers.AutoencoderKLLTX2Audio(**version.audio_vae),
            getattr(ltx2, version.classes["vocoder"])(**version.vocoder),
        )
    counts = [sum(p.numel() for p in model.parameters()) for model in (*exact, *rounded)]
    assert tuple(counts[:2]) == FIGURES[name][:2]
    assert [count / 1e6 for count in counts[2:]] == pytest.approx(FIGURES[name][2:], abs=0.06)
    assert version.sound_values == pytest.approx(sum(counts[4:]), abs=1e5)


# Sizes in transformers' names: those of released files.
GEMMA = {
    "vocab_size": 262_208,
    "hidden_size": 3840,
    "intermediate_size": 15_360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
}
GEMMA_4 = {
    **GEMMA,
    "vocab_size": 262_144,
    "global_head_dim": 512,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
}


@pytest.mark.parametrize("name", VERSIONS)
def test_the_text_encoder_has_the_released_size(name: str) -> None:
    import transformers

    encoder = VERSIONS[name].text_encoder
    kind = getattr(transformers, encoder.model_class)
    sizes = GEMMA if encoder.tuned is None else GEMMA_4
    with torch.device("meta"):
        model = kind(kind.config_class(**sizes))
    assert sum(p.numel() for p in model.parameters()) == encoder.values
    assert len(model.layers) == encoder.layers
    assert kind.config_class.model_type == encoder.model_types[1]
    assert VERSIONS[name].connectors["text_proj_in_factor"] == encoder.layers + 1


@pytest.mark.parametrize("name", VERSIONS)
def test_the_table_of_shapes_is_what_the_classes_build(name: str) -> None:
    assert full_shapes(name) == built_shapes(name)


def test_what_no_configuration_file_says() -> None:
    assert [(v.stg_block, v.vocoder["output_sampling_rate"], v.image_crf) for v in VERSIONS.values()] == [
        (29, 24_000, 33),
        (28, 48_000, 33),
        (28, 48_000, 18),
    ]


def _layout(root: Path, pipeline: str, transformer: dict[str, bool], connectors: dict[str, bool]) -> Path:
    for name, data in (
        ("model_index.json", {"_class_name": pipeline}),
        ("transformer/config.json", transformer),
        ("connectors/config.json", connectors),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(data))
    return root


def test_a_version_is_recognised_by_its_components(tmp_path: Path) -> None:
    old = _layout(tmp_path / "old", "LTX2Pipeline", {"gated_attn": False}, {})
    new = _layout(tmp_path / "new", "LTX2Pipeline", {"gated_attn": True}, {"per_modality_projections": True})
    marked = {"gated_attn": True, "use_keyframes_abs_pos_embedding": True}
    newest = _layout(tmp_path / "newest", "LTX2Pipeline", marked, {"per_modality_projections": True})
    assert recognise(old).name == "2.0"
    assert recognise(new).name == "2.3"
    assert recognise(newest).name == "2.5"


@pytest.mark.parametrize(
    ("pipeline", "transformer", "connectors", "message"),
    [
        ("LTXPipeline", {}, {}, "holds a LTXPipeline, not an LTX-2"),
        ("LTX2Pipeline", {"gated_attn": True}, {}, "mixes versions"),
        (
            "LTX2Pipeline",
            {"use_keyframes_abs_pos_embedding": True},
            {},
            r"not known here: gated_attn false, use_keyframes_abs_pos_embedding true\. Known are .*2\.5",
        ),
    ],
)
def test_what_is_no_supported_ltx2_is_refused_with_what_was_found(
    tmp_path: Path, pipeline: str, transformer: dict[str, bool], connectors: dict[str, bool], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        recognise(_layout(tmp_path, pipeline, transformer, connectors))


def test_an_empty_directory_is_refused_with_the_layout_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json does not exist; a model directory in the diff"):
        recognise(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        recognise(tmp_path)
