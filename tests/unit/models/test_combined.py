"""The combined checkpoint: its names, and round trips in every storage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.combined import COMBINED_COMPONENTS, open_combined
from ltxcore.models.files.precisions import quantised_names
from ltxcore.models.files.reference_names import is_known, locate, to_reference
from ltxcore.models.files.scaled_values import decode_fp4, decode_fp8, encode_fp4, encode_fp8
from ltxcore.models.files.source import ModelSource
from ltxcore.models.versions import VERSIONS
from tests.unit.models.combined_files import FILES, changed, open_source

LOADERS = {
    "transformer": loading.load_transformer,
    "connectors": loading.load_connectors,
    "vae": loading.load_video_vae,
    "audio_vae": loading.load_audio_vae,
    "vocoder": loading.load_vocoder,
}
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", VERSIONS)
def test_names_go_over_and_back(tinies: dict[str, ModelSource], version: str) -> None:
    names = {(c, name) for c in COMBINED_COMPONENTS for name in tinies[version].weights(c)}
    stored = {to_reference(*pair): pair for pair in names}
    assert len(stored) == len(names)
    assert all(locate(reference) == pair for reference, pair in stored.items())


@pytest.mark.parametrize(
    ("reference", "component", "name"),
    [
        (
            "model.diffusion_model.audio_adaln_single.linear.bias",
            "transformer",
            "audio_time_embed.linear.bias",
        ),
        ("model.diffusion_model.patchify_proj.weight", "transformer", "proj_in.weight"),
        (
            "model.diffusion_model.transformer_blocks.7.scale_shift_table_a2v_ca_audio",
            "transformer",
            "transformer_blocks.7.audio_a2v_cross_attn_scale_shift_table",
        ),
        (
            "model.diffusion_model.video_embeddings_connector.transformer_1d_blocks.1.attn1.q_norm.weight",
            "connectors",
            "video_connector.transformer_blocks.1.attn1.norm_q.weight",
        ),
        ("text_embedding_projection.aggregate_embed.weight", "connectors", "text_proj_in.weight"),
        ("text_embedding_projection.audio_aggregate_embed.bias", "connectors", "audio_text_proj_in.bias"),
        ("vae.per_channel_statistics.mean-of-means", "vae", "latents_mean"),
        ("audio_vae.per_channel_statistics.std-of-means", "audio_vae", "latents_std"),
        (
            "vae.encoder.down_blocks.7.conv.conv.weight",
            "vae",
            "encoder.down_blocks.3.downsamplers.0.conv.conv.weight",
        ),
        (
            "vae.encoder.down_blocks.8.res_blocks.1.conv1.conv.bias",
            "vae",
            "encoder.mid_block.resnets.1.conv1.conv.bias",
        ),
        ("vae.decoder.up_blocks.7.conv.conv.bias", "vae", "decoder.up_blocks.3.upsamplers.0.conv.conv.bias"),
        (
            "vae.decoder.up_blocks.8.res_blocks.0.conv2.conv.weight",
            "vae",
            "decoder.up_blocks.3.resnets.0.conv2.conv.weight",
        ),
        (
            "vocoder.bwe_generator.resblocks.4.acts1.0.downsample.lowpass.filter",
            "vocoder",
            "bwe_generator.resnets.4.acts1.0.downsample.filter",
        ),
        ("vocoder.ups.0.weight", "vocoder", "upsamplers.0.weight"),
        ("vocoder.vocoder.act_post.act.alpha", "vocoder", "vocoder.act_out.act.alpha"),
    ],
)
def test_names_are_those_of_the_released_files(reference: str, component: str, name: str) -> None:
    assert locate(reference) == (component, name)
    assert to_reference(component, name) == reference


@pytest.mark.parametrize("component", ["vae", "audio_vae"])
@pytest.mark.parametrize("name", ["channel", "mean-of-stds", "mean-of-stds_over_std-of-means", "unheard-of"])
def test_statistics_that_nothing_reads_are_known_and_left_out(component: str, name: str) -> None:
    assert locate(f"{component}.per_channel_statistics.{name}") is None
    assert is_known(f"{component}.per_channel_statistics.{name}")
    assert not is_known("text_encoder.layers.0.weight")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_combined_file_holds_the_five_statistics_of_released_ones(combined: Path, version: str) -> None:
    with safe_open(combined / f"{version}-bf16.safetensors", "pt") as file:
        found = {name for name in file.keys() if ".per_channel_statistics." in name}  # noqa: SIM118
    assert len(found) == 10


@pytest.mark.parametrize("said", [True, False])
def test_the_vocoder_s_window_is_as_long_as_its_transform_where_nothing_else_is_said(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, said: bool
) -> None:
    original = combined / "2.3-bf16.safetensors"
    with safe_open(original, "pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert "win_size" not in stored["vocoder"]["bwe"]
    stored["vocoder"]["bwe"] |= {"n_fft": 1024, **({"win_size": 800} if said else {})}
    other = changed(original, tmp_path / "other.safetensors", config=json.dumps(stored))
    config = open_source(other, tinies, tmp_path).config("vocoder")
    assert (config["filter_length"], config["window_length"]) == (1024, 800 if said else 1024)


@pytest.mark.parametrize("version", VERSIONS)
def test_bf16_comes_back_exactly_with_the_same_configuration(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, version: str
) -> None:
    source = open_source(combined / f"{version}-bf16.safetensors", tinies, tmp_path)
    assert (source.version.name, source.combined and source.combined.storage) == (version, "bf16")
    for load in LOADERS.values():
        mine, own = (load(s, torch.bfloat16, "cpu") for s in (source, tinies[version]))
        assert type(mine) is type(own)
        assert _plain(mine.config) == _plain(own.config)
        ours, theirs = mine.state_dict(), own.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        for (key, buffer), (_, other) in zip(mine.named_buffers(), own.named_buffers(), strict=True):
            assert torch.equal(buffer, other), key


def _plain(config: object) -> dict[str, object]:
    """What a configuration says of the model; 2.0's connectors have no hidden widths of their own."""
    data = json.loads(json.dumps(dict(config)))  # type: ignore[call-overload]
    unread = ("video_hidden_dim", "audio_hidden_dim") if not data.get("per_modality_projections") else ()
    return {key: value for key, value in data.items() if not key.startswith("_") and key not in unread}


@pytest.mark.parametrize("storage", ["fp8", "fp4"])
def test_scaled_storages_come_back_to_their_own_rounding(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, storage: str
) -> None:
    source = open_source(combined / f"2.0-{storage}.safetensors", tinies, tmp_path)
    assert source.combined is not None
    assert source.combined.storage == storage
    plain = loading.load_transformer(tinies["2.0"], torch.bfloat16, "cpu").state_dict()
    found = loading.load_transformer(source, torch.bfloat16, "cpu").state_dict()
    scaled = quantised_names("transformer", source.shapes("transformer"))
    assert scaled
    for name, weight in plain.items():
        if name not in scaled:
            assert torch.equal(found[name], weight), name
        elif storage == "fp8":
            assert torch.equal(found[name], decode_fp8(*_floats(encode_fp8(weight)), torch.bfloat16)), name
        else:
            code = encode_fp4(weight)
            again = decode_fp4(code.packed, code.block_scales, float(code.scale), torch.bfloat16)
            assert torch.equal(found[name], again), name
    # The VAE beside them is the same in all three, so changing storage re-encodes no clip.
    others = [open_source(combined / f"2.0-{s}.safetensors", tinies, tmp_path) for s in FILES]
    assert len({other.fingerprint("vae") for other in others}) == 1
    assert len({other.fingerprint("transformer") for other in others}) == 3


def _floats(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, float]:
    return pair[0], float(pair[1])


def test_fp4_codes_scales_and_tiles_are_where_the_format_says() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = 200, 96
    weight = torch.randn(rows, columns, generator=generator)
    code = encode_fp4(weight)
    assert code.packed.shape == (rows, columns // 2)
    assert code.block_scales.shape == (256, 8)
    decoded = decode_fp4(code.packed, code.block_scales, float(code.scale), torch.float32)

    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    scales = code.block_scales.float().flatten()
    for row, column in ((0, 0), (33, 17), (127, 95), (128, 64), (199, 94)):
        byte = int(code.packed[row, column // 2])
        nibble = byte & 15 if column % 2 else byte >> 4
        value = values[nibble & 7] * (-1 if nibble & 8 else 1)
        block = column // 16
        tile = (row // 128) * 2 + block // 4
        place = tile * 512 + (row % 32) * 16 + (row % 128) // 32 * 4 + block % 4
        assert decoded[row, column] == pytest.approx(value * float(scales[place] * code.scale), rel=1e-6)
    # Half the widest step of E2M1 (4 to 6), over its largest value, and the block scales' own rounding.
    limit = weight.view(rows, -1, 16).abs().amax(-1, keepdim=True) * (1 / 6 + 1 / 16)
    assert ((decoded - weight).view(rows, -1, 16).abs() <= limit).all()


def test_a_stage_reads_the_bytes_of_its_part_alone(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    source = open_source(combined / "2.0-bf16.safetensors", tinies, tmp_path)
    damaged = tmp_path / "damaged.safetensors"
    shutil.copy(source.root, damaged)
    with damaged.open("r+b") as file:
        for name in ("transformer", "connectors", "audio_vae", "vocoder"):
            for weight in source.weights(name).values():
                file.seek(weight.values.start)
                file.write(b"\xff" * weight.values.size_bytes)
    other = open_source(damaged, tinies, tmp_path)
    wanted, found = (loading.load_video_vae(s, torch.bfloat16, "cpu").state_dict() for s in (source, other))
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert other.fingerprint("vae") == source.fingerprint("vae")
    assert other.fingerprint("vocoder") != source.fingerprint("vocoder")


def test_without_metadata_the_weights_show_the_version_and_the_table_gives_the_rest(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    for version in VERSIONS:
        bare = changed(
            combined / f"{version}-bf16.safetensors",
            tmp_path / "bare.safetensors",
            config="",
            model_version="",
        )
        opened = open_combined(bare)
        assert opened.version.name == version
        config = opened.config("transformer")
        assert (config["num_layers"], config["audio_in_channels"]) == (48, 8)
        source = open_source(bare, tinies, tmp_path)
        with pytest.raises(
            ModelError, match=r"transformer in .*bare.* weights are missing, e\.g\. .*misshapen"
        ):
            loading.load_transformer(source, torch.bfloat16, "cpu")
