"""The table against the figures of the released models, and recognising a version on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ltxcore.media import buckets
from ltxcore.models.errors import ModelError
from ltxcore.models.versions import GEOMETRY, LOADABLE, VERSIONS, recognise
from ltxcore.validation import plan as rendering

# Parameters of the released models: transformer, connectors; in millions VAE encoder and decoder, audio VAE,
# vocoder.
FIGURES = {
    "2.0": (18_876_174_592, 1_431_475_200, 694.1, 528.4, 53.2, 55.6),
    "2.3": (18_988_838_144, 3_172_227_584, 318.9, 407.2, 53.2, 128.5),
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
            getattr(ltx2, version.vocoder_class)(**version.vocoder),
        )
    counts = [sum(p.numel() for p in model.parameters()) for model in (*exact, *rounded)]
    assert tuple(counts[:2]) == FIGURES[name][:2]
    assert [count / 1e6 for count in counts[2:]] == pytest.approx(FIGURES[name][2:], abs=0.06)


def test_what_no_configuration_file_says() -> None:
    assert [(v.stg_block, v.output_sample_rate, v.image_crf) for v in VERSIONS.values()] == [
        (29, 24_000, 33),
        (28, 48_000, 33),
        (28, 48_000, 18),
    ]


def test_the_row_of_2_5_counts_its_transformer_and_names_what_is_missing() -> None:
    from diffusers import LTX2VideoTransformer3DModel

    newest = VERSIONS["2.5"]
    with torch.device("meta"):
        transformer = LTX2VideoTransformer3DModel(**newest.transformer)
    assert sum(p.numel() for p in transformer.parameters()) == 18_987_859_200
    assert LOADABLE == ("2.0", "2.3")
    with pytest.raises(
        ModelError, match=r"missing are the text encoder \(a Gemma 4 .* video VAE .* 2\.0, 2\.3"
    ):
        newest.require_loadable("here")


def test_the_geometry_is_that_of_the_media_and_of_the_rendering() -> None:
    assert GEOMETRY.temporal_factor == buckets.TEMPORAL_FACTOR == rendering.TEMPORAL_MULTIPLE
    assert GEOMETRY.spatial_factor == rendering.SPATIAL_MULTIPLE
    assert GEOMETRY.video_tokens(49, 1280, 704) == 6160


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
    assert recognise(old).name == "2.0"
    assert recognise(new).name == "2.3"


@pytest.mark.parametrize(
    ("pipeline", "transformer", "connectors", "told"),
    [
        ("LTXPipeline", {}, {}, "holds a LTXPipeline, not an LTX-2"),
        ("LTX2Pipeline", {"gated_attn": True}, {}, "mixes versions"),
        (
            "LTX2Pipeline",
            {"use_keyframes_abs_pos_embedding": True},
            {},
            "LTX-2.5, which cannot be loaded yet; missing are the text encoder",
        ),
    ],
)
def test_what_is_no_supported_ltx2_is_refused_with_what_was_found(
    tmp_path: Path, pipeline: str, transformer: dict[str, bool], connectors: dict[str, bool], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        recognise(_layout(tmp_path, pipeline, transformer, connectors))


def test_an_empty_directory_is_refused_with_the_layout_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json does not exist; a model directory in the diff"):
        recognise(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        recognise(tmp_path)
