"""What latents depend on of a VAE."""

from __future__ import annotations

import inspect
from pathlib import Path

import diffusers
import pytest

from ltxcore.models.files.encoders import ENCODER_KEYS
from ltxcore.models.files.source import ModelSource
from ltxcore.models.versions import VERSIONS
from tests.unit.models.combined_files import open_source

CLASSES = {"vae": diffusers.AutoencoderKLLTX2Video, "audio_vae": diffusers.AutoencoderKLLTX2Audio}


@pytest.mark.parametrize("component", CLASSES)
def test_keys_that_a_layout_leaves_out_mean_the_class_s_defaults(component: str) -> None:
    usual = inspect.signature(CLASSES[component].__init__).parameters
    assert ENCODER_KEYS[component] == {key: usual[key].default for key in ENCODER_KEYS[component]}


@pytest.mark.parametrize("component", CLASSES)
def test_no_key_of_an_encoder_is_overlooked(component: str) -> None:
    """The rest is the decoder's, or shows in the shapes of the encoder's weights."""
    names = set(inspect.signature(CLASSES[component].__init__).parameters) - set(ENCODER_KEYS[component])
    of_decoders = {"timestep_conditioning", "out_channels", "output_channels"}
    shown = {"in_channels", "latent_channels", "block_out_channels", "layers_per_block", "base_channels"}
    shown |= {"ch_mult", "num_res_blocks"}
    unread = {"self", "down_block_types", "spatial_compression_ratio", "temporal_compression_ratio"}
    # Only says where attention is, of which there is none, and nothing is dropped in inference.
    unread |= {"resolution", "dropout"}
    rest = {name for name in names if not name.startswith(("decoder_", "upsample_"))}
    assert rest <= of_decoders | shown | unread


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("component", CLASSES)
def test_equal_encoders_have_one_fingerprint_in_either_layout(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, version: str, component: str
) -> None:
    stored = open_source(combined / f"{version}-bf16.safetensors", tinies, tmp_path)
    scaled = open_source(combined / f"{version}-fp4.safetensors", tinies, tmp_path)
    assert stored.encoder_fingerprint(component) == scaled.encoder_fingerprint(component)
    assert stored.encoder_fingerprint(component) != stored.fingerprint(component)
    # float32 there, and other numbers therefore.
    assert stored.encoder_fingerprint(component) != tinies[version].encoder_fingerprint(component)
