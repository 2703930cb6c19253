"""The combined checkpoint: round trips in every storage, recognition, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models import loading
from ltxcore.models.combined import COMBINED_COMPONENTS, open_combined
from ltxcore.models.combined_writer import write_combined
from ltxcore.models.errors import ModelError
from ltxcore.models.precisions import quantised_names
from ltxcore.models.reference_names import is_known, locate, to_reference
from ltxcore.models.scaled_values import decode_fp4, decode_fp8, encode_fp4, encode_fp8
from ltxcore.models.source import ModelSource, resolve_model
from ltxcore.models.tiny import write_tiny

LOADERS = {
    "transformer": loading.load_transformer,
    "connectors": loading.load_connectors,
    "vae": loading.load_video_vae,
    "audio_vae": loading.load_audio_vae,
    "vocoder": loading.load_vocoder,
}
ROOT = Path(__file__).parents[2]
FILES = {"bf16": "dev", "fp8": "dev-fp8", "fp4": "dev-fp4"}


@pytest.fixture(scope="module")
def tinies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """A tiny model of each version in the diffusers layout."""
    root = tmp_path_factory.mktemp("tinies")
    for version in ("2.0", "2.3"):
        write_tiny(root / version, version)
    return {version: _resolve(root / version, root) for version in ("2.0", "2.3")}


@pytest.fixture(scope="module")
def combined(tinies: dict[str, ModelSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every storage of every version, in one directory, with nothing beside them."""
    root = tmp_path_factory.mktemp("combined")
    for version, source in tinies.items():
        for storage in FILES:
            write_combined(source, root / f"{version}-{storage}.safetensors", storage)
    return root


def _resolve(path: Path, models_dir: Path, **more: str) -> ModelSource:
    return resolve_model(ModelSettings(pretrained_model_name_or_path=str(path), **more), models_dir)


def _opened(file: Path, tinies: dict[str, ModelSource], models_dir: Path, **more: str) -> ModelSource:
    return _resolve(file, models_dir, text_encoder=str(tinies["2.0"].root), **more)


def _changed(
    file: Path,
    target: Path,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda found: None,
    **metadata: str,
) -> Path:
    """A copy of a combined file with other tensors or metadata."""
    found = load_file(file)
    tensors(found)
    with safe_open(file, "pt") as opened:
        header = opened.metadata() | metadata
    save_file(found, target, {key: value for key, value in header.items() if value})
    return target


@pytest.mark.parametrize("version", ["2.0", "2.3"])
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


def test_statistics_that_nothing_reads_are_known_and_left_out() -> None:
    assert locate("vae.per_channel_statistics.mean-of-stds") is None
    assert is_known("vae.per_channel_statistics.mean-of-stds")
    assert not is_known("text_encoder.layers.0.weight")


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_bf16_comes_back_exactly_with_the_same_configuration(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, version: str
) -> None:
    source = _opened(combined / f"{version}-bf16.safetensors", tinies, tmp_path)
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
    source = _opened(combined / f"2.0-{storage}.safetensors", tinies, tmp_path)
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
    others = [_opened(combined / f"2.0-{s}.safetensors", tinies, tmp_path) for s in FILES]
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
    source = _opened(combined / "2.0-bf16.safetensors", tinies, tmp_path)
    damaged = tmp_path / "damaged.safetensors"
    shutil.copy(source.root, damaged)
    with damaged.open("r+b") as file:
        for name in ("transformer", "connectors", "audio_vae", "vocoder"):
            for weight in source.weights(name).values():
                file.seek(weight.values.start)
                file.write(b"\xff" * weight.values.size_bytes)
    other = _opened(damaged, tinies, tmp_path)
    wanted, found = (loading.load_video_vae(s, torch.bfloat16, "cpu").state_dict() for s in (source, other))
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert other.fingerprint("vae") == source.fingerprint("vae")
    assert other.fingerprint("vocoder") != source.fingerprint("vocoder")


def test_without_metadata_the_weights_show_the_version_and_the_table_gives_the_rest(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    for version in ("2.0", "2.3"):
        bare = _changed(
            combined / f"{version}-bf16.safetensors",
            tmp_path / "bare.safetensors",
            config="",
            model_version="",
        )
        opened = open_combined(bare)
        assert opened.version.name == version
        config = opened.config("transformer")
        assert (config["num_layers"], config["audio_in_channels"]) == (48, 8)
        source = _opened(bare, tinies, tmp_path)
        with pytest.raises(
            ModelError, match=r"transformer in .*bare.* weights are missing, e\.g\. .*misshapen"
        ):
            loading.load_transformer(source, torch.bfloat16, "cpu")


def test_gemma_comes_from_the_settings_or_from_beside_the_file(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model" / "ltx-2-19b-dev.safetensors"
    file.parent.mkdir()
    shutil.copy(combined / "2.0-bf16.safetensors", file)
    with pytest.raises(ModelError, match=r"holds no Gemma.*set model\.text_encoder to a directory or hub id"):
        _resolve(file, tmp_path)
    with pytest.raises(ModelError, match=r"the text encoder \./nowhere is neither a directory"):
        _resolve(file, tmp_path, text_encoder="./nowhere")
    apart = _resolve(file, tmp_path, text_encoder=str(tinies["2.0"].root))
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(tinies["2.0"].root / name, file.parent / name)
    beside = _resolve(file, tmp_path)
    assert beside.text_root == file.parent
    assert beside.fingerprint("text_encoder") == apart.fingerprint("text_encoder")
    assert apart.text_max_tokens == 128


def test_a_directory_gives_the_file_of_the_flavour(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    root.mkdir()
    given = {"text_encoder": str(tinies["2.0"].root)}
    shutil.copy(combined / "2.0-fp8.safetensors", root / "mine.safetensors")
    assert _resolve(root, tmp_path, **given).root.name == "mine.safetensors"
    assert _resolve(root, tmp_path, model_flavour="dev-fp8", **given).root.name == "mine.safetensors"
    shutil.copy(combined / "2.3-bf16.safetensors", root / "other.safetensors")
    with pytest.raises(ModelError, match=r"holds 2 checkpoints \(mine.*\), none of them ltx-2-19b-dev\."):
        _resolve(root, tmp_path, **given)
    shutil.copy(combined / "2.0-fp4.safetensors", root / "ltx-2-19b-dev-fp4.safetensors")
    assert _resolve(root, tmp_path, model_flavour="dev-fp4", **given).root.name.endswith(
        "dev-fp4.safetensors"
    )


def test_a_hub_repository_gives_the_combined_file_and_its_own_gemma(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    # The hub client reads its settings when it is imported, so it gets a process of its own.
    cache = tmp_path / "hub" / "models--someone--ltx2"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    program = (
        "import sys; from pathlib import Path; from ltxcore.config.model_settings import ModelSettings;"
        "from ltxcore.models.source import resolve_model;"
        "given = ModelSettings(pretrained_model_name_or_path='someone/ltx2', model_flavour='dev-fp8');"
        "found = resolve_model(given, Path('.')); print(found.root, found.text_root)"
    )

    def run() -> subprocess.CompletedProcess[str]:
        settings = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | settings
        )

    assert "someone/ltx2 holds neither the diffusers layout nor ltx-2-19b-dev-fp8.safetensors" in run().stderr
    file = snapshot / "ltx-2-19b-dev-fp8.safetensors"
    file.symlink_to(combined / "2.0-fp8.safetensors")
    for name in ("text_encoder", "tokenizer"):
        (snapshot / name).symlink_to(tinies["2.0"].root / name)
    found = run()
    assert found.stdout.split() == [str(file), str(snapshot)], found.stderr


@pytest.mark.parametrize(
    ("name", "flavour", "told"),
    [
        (
            "2.3-bf16",
            "dev",
            r"an LTX-2\.3 in bf16, but model_flavour dev is an LTX-2\.0 in bf16; set model_fla",
        ),
        (
            "2.0-bf16",
            "2.3-dev",
            r"model_flavour 2\.3-dev is an LTX-2\.3 in bf16; set model_flavour to dev, or",
        ),
        (
            "2.0-bf16",
            "dev-fp8",
            r"in bf16, but model_flavour dev-fp8 is an LTX-2\.0 in fp8; set model_flavour",
        ),
    ],
)
def test_a_flavour_that_the_file_is_not_is_refused(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, name: str, flavour: str, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        _opened(combined / f"{name}.safetensors", tinies, tmp_path, model_flavour=flavour)
    version = name[:3]
    wanted = "2.3-dev" if version == "2.0" else "dev"
    with pytest.raises(ModelError, match=rf"holds an LTX-{version} in bf16, but model_flavour {wanted}"):
        _resolve(tinies[version].root, tmp_path, model_flavour=wanted)


def test_what_is_no_checkpoint_of_ltx2_is_refused_with_what_was_found(combined: Path, tmp_path: Path) -> None:
    file = combined / "2.0-bf16.safetensors"
    data = file.read_bytes()
    cases: dict[str, tuple[Callable[[Path], object], str]] = {
        "short": (lambda p: p.write_bytes(data[:-1000]), r"is cut short: it has [\d,]+ bytes and its header"),
        "shorter": (lambda p: p.write_bytes(data[:5000]), "is cut short"),
        "text": (lambda p: p.write_bytes(b"<html>" * 99), "is no safetensors file"),
        "pointer": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        "lora": (
            lambda p: save_file({"diffusion_model.x.lora_A.weight": torch.zeros(2)}, p),
            r"is a LoRA, not a base model: it holds diffusion_model\.x\.lora_A",
        ),
        "flux": (
            lambda p: save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}, p),
            r"is a checkpoint of another model: it holds double_blocks\.0.*Give a combined checkpoint",
        ),
        "vae": (
            lambda p: save_file({"vae.encoder.x": torch.zeros(2)}, p),
            "is a checkpoint of another model",
        ),
        "newer": (lambda p: _changed(file, p, model_version="3.1"), r"LTX-3\.1, which is not known here"),
        "liar": (
            lambda p: _changed(file, p, model_version="2.3"),
            r"says that it is an LTX-2\.3, but its att",
        ),
        "broken": (lambda p: _changed(file, p, config="{"), "config in the metadata of .* does not parse"),
    }
    for name, (write, told) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        write(path)
        with pytest.raises(ModelError, match=told):
            open_combined(path)
    with pytest.raises(
        ModelError, match=r"LTX-2\.5, which cannot be loaded yet; missing are the text encoder"
    ):
        open_combined(
            _changed(combined / "2.3-bf16.safetensors", tmp_path / "2.5.safetensors", model_version="2.5.0")
        )


def test_faulty_weights_are_named_before_anything_is_allocated(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    def spoil(found: dict[str, torch.Tensor]) -> None:
        block = "model.diffusion_model.transformer_blocks.0"
        del found[f"{block}.attn1.to_q.bias"]
        found[f"{block}.surprise"] = torch.zeros(3)
        found[f"{block}.attn1.to_k.bias"] = torch.zeros(7)
        del found["vae.encoder.down_blocks.8.res_blocks.0.conv1.conv.weight"]

    path = _changed(combined / "2.0-bf16.safetensors", tmp_path / "spoilt.safetensors", spoil)
    source = _opened(path, tinies, tmp_path)
    with pytest.raises(ModelError) as caught:
        loading.load_transformer(source, torch.bfloat16, "cpu")
    told = str(caught.value)
    assert "1 weights are missing, e.g. transformer_blocks.0.attn1.to_q.bias" in told
    assert "1 weights are not known, e.g. transformer_blocks.0.surprise" in told
    assert "transformer_blocks.0.attn1.to_k.bias is [7] instead of [64]" in told
    with pytest.raises(
        ModelError, match=r"missing, e\.g\. encoder\.mid_block\.resnets\.0\.conv1\.conv\.weight"
    ):
        loading.load_video_vae(source, torch.bfloat16, "cpu")

    def unscale(found: dict[str, torch.Tensor]) -> None:
        del found["model.diffusion_model.transformer_blocks.1.attn2.to_v.weight_scale"]

    for storage, lacks in (("fp8", "lacks its weight_scale of one"), ("fp4", r"weight_scale of 128 x 4 fp8")):
        path = _changed(combined / f"2.0-{storage}.safetensors", tmp_path / "unscaled.safetensors", unscale)
        with pytest.raises(ModelError, match=rf"transformer_blocks\.1\.attn2\.to_v\.weight .*{lacks}"):
            _opened(path, tinies, tmp_path).weights("transformer")


def test_tensors_of_no_part_are_told(
    combined: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def add(found: dict[str, torch.Tensor]) -> None:
        found["text_encoders.gemma.layers.0.weight"] = torch.zeros(3)

    open_combined(_changed(combined / "2.0-bf16.safetensors", tmp_path / "more.safetensors", add))
    assert "1 tensors that belong to no part of LTX-2 and are not read: text_encoders.gemma" in caplog.text
