"""Models in packs: what they give, and what is refused before anything is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.published import flavour_files
from ltxcore.models.errors import ModelError
from ltxcore.models.files import hashes, loading
from ltxcore.models.files.reference_names import to_reference
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.shapes import full_shapes
from ltxcore.models.text.caption_encoder import caption_tokens, load_feature_extractor
from ltxcore.models.text.gemma_layers import GemmaLayers, LayeredCaptionEncoder
from tests.unit.models.combined_files import open_source, resolve
from tests.unit.models.pack_files import (
    AUDIO_VAE,
    PACKS,
    PROJECTIONS,
    TEXT,
    TRANSFORMER,
    VIDEO_VAE,
    rewrite,
    split,
)

ROOT = Path(__file__).parents[3]
LOADERS: dict[str, Callable[..., Any]] = {
    "transformer": loading.load_transformer,
    "connectors": loading.load_connectors,
    "vae": loading.load_video_vae,
    "audio_vae": loading.load_audio_vae,
    "vocoder": loading.load_vocoder,
}


@pytest.fixture(scope="module")
def split_models(
    tinies: dict[str, ModelSource], combined: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The packs of each version that is published so."""
    root = tmp_path_factory.mktemp("packs")
    return {
        version: split(combined / f"{version}-bf16.safetensors", tinies[version], root / version)
        for version in ("2.3", "2.5")
    }


@pytest.fixture
def packs(split_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of 2.5's."""
    shutil.copytree(split_models["2.5"], tmp_path / "model")
    return tmp_path / "model"


def given(version: str, tinies: dict[str, ModelSource]) -> dict[str, str]:
    """2.3's packs come without a Gemma."""
    return {"text_encoder": str(tinies["2.3"].root)} if version == "2.3" else {}


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_packs_are_the_combined_checkpoint_in_parts(
    tinies: dict[str, ModelSource],
    combined: Path,
    split_models: dict[str, Path],
    tmp_path: Path,
    version: str,
) -> None:
    whole = open_source(combined / f"{version}-bf16.safetensors", tinies, tmp_path)
    source = resolve(split_models[version], tmp_path, **given(version, tinies))
    assert source.version.name == version
    for name, load in LOADERS.items():
        ours, theirs = (load(s, torch.bfloat16, "cpu").state_dict() for s in (source, whole))
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        if name != "connectors":
            assert source.fingerprint(name) == whole.fingerprint(name), (
                "moving on to packs computes nothing anew"
            )
    assert len(source.weight_files("connectors")) == 2


def test_a_text_pack_is_the_whole_text_encoder(
    tinies: dict[str, ModelSource], split_models: dict[str, Path], tmp_path: Path
) -> None:
    source = resolve(split_models["2.5"], tmp_path)
    tokenizer, model = loading.load_text_encoder(source, torch.float32, "cpu")
    theirs, whole = loading.load_text_encoder(tinies["2.5"], torch.float32, "cpu")
    assert caption_tokens(tokenizer, "a rød ball") == caption_tokens(theirs, "a rød ball")
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert source.text_max_tokens == 128
    encoder = LayeredCaptionEncoder(
        tokenizer,
        GemmaLayers(source, torch.float32, "cpu"),
        load_feature_extractor(source, torch.float32, "cpu"),
        source.text_max_tokens,
    )
    assert torch.isfinite(encoder.encode(["a red ball"])[0].video).all()
    # It is another one than the same weights with another tokenizer, and remembered once it was read.
    assert len({source.fingerprint(name) for name in ("text_encoder", "tokenizer")}) == 2


@pytest.mark.parametrize("version", ["2.3", "2.5"])
def test_packs_may_be_named_one_by_one_or_lie_in_one_folder(
    tinies: dict[str, ModelSource], split_models: dict[str, Path], tmp_path: Path, version: str
) -> None:
    root = split_models[version]
    by_name = {"transformer": TRANSFORMER, "vae": VIDEO_VAE, "audio_vae": AUDIO_VAE}
    by_name |= {"text_projection": TEXT} if version == "2.3" else {"text_encoder": TEXT}
    parts = {part: str(root / file) for part, file in by_name.items()}
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in PACKS:
        shutil.copy(root / file, flat)
    named = resolve_model(ModelSettings(parts=parts, **given(version, tinies)), tmp_path)
    for source in (named, resolve(flat, tmp_path, **given(version, tinies))):
        for component in (*LOADERS, "text_encoder"):
            expected = resolve(root, tmp_path, **given(version, tinies)).fingerprint(component)
            assert source.fingerprint(component) == expected


def test_a_part_may_replace_that_of_a_checkpoint(
    tinies: dict[str, ModelSource], combined: Path, split_models: dict[str, Path], tmp_path: Path
) -> None:
    """ComfyUI's usual files: a scaled transformer and the rest apart."""
    scaled = split(combined / "2.3-fp8.safetensors", tinies["2.3"], tmp_path / "scaled")
    settings = ModelSettings(
        pretrained_model_name_or_path=str(combined / "2.3-bf16.safetensors"),
        parts={"transformer": str(scaled / TRANSFORMER)},  # type: ignore[dict-item]
        text_encoder=str(tinies["2.3"].root),
    )
    source = resolve_model(settings, tmp_path)
    assert source.combined is not None
    assert source.combined.storage == "fp8"
    plain = open_source(combined / "2.3-bf16.safetensors", tinies, tmp_path)
    assert source.fingerprint("vae") == plain.fingerprint("vae")
    transformer = source.fingerprint("transformer")
    assert transformer != plain.fingerprint("transformer")
    # Names without a prefix, as some of these files have them.
    bare = lambda tensors: {n.removeprefix("model.diffusion_model."): t for n, t in tensors.items()}  # noqa: E731
    rewrite(scaled / TRANSFORMER, bare)
    again = resolve_model(settings, tmp_path / "again")
    assert again.fingerprint("transformer") == transformer


def other_version(file: str) -> Callable[[Path], None]:
    return lambda root: rewrite(root / file, model_version="2.3.0")


def without(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).unlink()


def second_vae(root: Path) -> None:
    shutil.copy(root / VIDEO_VAE, root / "vae/another.safetensors")


def diffusion_decoder(root: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
        return kept | {"decoder.stages.0.blocks.0.attn.qkv.weight": torch.zeros(2, 2)}

    rewrite(root / VIDEO_VAE, change)


def no_projections(root: Path) -> None:
    rewrite(root / TEXT, lambda found: {n: t for n, t in found.items() if not n.startswith(PROJECTIONS)})


def vanilla(root: Path) -> None:
    _encoder(root, lambda config: {key: value for key, value in config.items() if key != "gemma_version"})


def other_tuning(root: Path) -> None:
    _encoder(root, lambda config: config | {"gemma_version": "gemma4-12b-someone"})


def older_gemma(root: Path) -> None:
    _encoder(root, lambda config: config | {"model_type": "gemma3"})


def _encoder(root: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors import safe_open

    with safe_open(root / TEXT, "pt") as file:
        config = json.loads(file.metadata()["gemma_config"])
    rewrite(root / TEXT, gemma_config=json.dumps(change(config)))


def no_configuration(root: Path) -> None:
    rewrite(root / TEXT, gemma_config=None)


def rotated(root: Path) -> None:
    name = "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"
    rewrite(root / TRANSFORMER, lambda found: found | {name: torch.zeros(64, 64, dtype=torch.int8)})


def two_transformers(root: Path) -> None:
    shutil.copy(root / TRANSFORMER, root / "diffusion_models/other.safetensors")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            without(VIDEO_VAE),
            r"the model lacks the convolutional video VAE .*beside them, or name it by model\.parts",
        ),
        (without(AUDIO_VAE), r"lacks the audio VAE \(vae/\.\.\.\); the vocoder"),
        (without(TEXT), r"lacks the text projections \(text_encoders"),
        (without(TRANSFORMER), r"lacks the transformer \(diffusion_models"),
        (no_projections, r"lacks the text projections .*text\.safetensors \(text_encoder\)"),
        (second_vae, r"another\.safetensors and video-vae\.safetensors .* both hold the vae; name the one"),
        (diffusion_decoder, "lacks the convolutional video VAE.*decoder that is a diffusion model"),
        (
            other_version(VIDEO_VAE),
            r"video-vae.* holds the vae of LTX-2\.3, but the transformer .* of LTX-2\.5",
        ),
        (two_transformers, r"holds 2 checkpoints \(other.*set model_flavour"),
        (vanilla, r"is a gemma4_unified without a gemma_version, as Google publishes it.*gemma4-12b-ltx-v1"),
        (
            other_tuning,
            "has the tuning gemma4-12b-someone, but the transformer was trained with gemma4-12b-ltx",
        ),
        (older_gemma, r"is a gemma3, but LTX-2\.5 reads the Gemma 4 12B that Lightricks tuned"),
        (no_configuration, "holds a Gemma without gemma_config.*give the Gemma 4 12B"),
        (rotated, r"1 weights in int8, .*convrot.*bf16, fp8-scaled or nvfp4"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_wrong_with_packs_is_named_before_anything_is_read(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(packs)
    monkeypatch.setattr(hashes, "hash_file", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(ModelError, match=told):
        resolve(packs, tmp_path)


def silent(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A pack without any metadata."""
    save_file(tensors, file)


@pytest.mark.parametrize("part", ["vae", "text projection", "vocoder"])
def test_a_part_of_another_version_that_does_not_say_so_is_told_by_its_weights(
    tinies: dict[str, ModelSource],
    combined: Path,
    split_models: dict[str, Path],
    tmp_path: Path,
    part: str,
) -> None:
    packs = tmp_path / "model"
    shutil.copytree(split_models["2.3"], packs)
    older = split(combined / "2.0-bf16.safetensors", tinies["2.0"], tmp_path / "older")
    file = {"vae": VIDEO_VAE, "text projection": TEXT, "vocoder": AUDIO_VAE}[part]
    if part == "vae":
        # By the names of the released model; a tiny one has fewer.
        released = {to_reference("vae", name): torch.zeros(1) for name in full_shapes("2.0")["vae"]}
        silent(packs / file, released | {"vae.decoder.conv_in.conv.weight": torch.zeros(1, 1, 1, 1, 1)})
    else:
        silent(packs / file, load_file(older / file))
    name = Path(file).name
    told = rf"{name} holds the {part} of LTX-2\.0, as the names .* is of LTX-2\.3; give the pack of LTX-2\.3"
    with pytest.raises(ModelError, match=told):
        resolve(packs, tmp_path, **given("2.3", tinies))
    shutil.copy(split_models["2.3"] / file, packs / file)
    source = resolve(packs, tmp_path, **given("2.3", tinies))
    assert source.component("vae").name == "video-vae.safetensors", "an error names the file that it is in"


def test_packs_that_name_another_version_than_the_weights_of_the_transformer_are_refused(
    tinies: dict[str, ModelSource], split_models: dict[str, Path], tmp_path: Path
) -> None:
    packs = tmp_path / "model"
    shutil.copytree(split_models["2.5"], packs)
    shutil.copy(split_models["2.3"] / TRANSFORMER, packs / TRANSFORMER)
    rewrite(packs / TRANSFORMER, model_version=None)
    with pytest.raises(ModelError, match=r"of LTX-2\.5, but the transformer in .* is of LTX-2\.3; give the"):
        resolve(packs, tmp_path, **given("2.3", tinies))


def test_of_two_vaes_the_convolutional_one_is_taken(packs: Path, tmp_path: Path) -> None:
    second_vae(packs)
    diffusion_decoder(packs)
    source = resolve(packs, tmp_path)
    assert source.weight_files("vae") == [packs / "vae/another.safetensors"]
    named = {"vae": str(packs / "vae/another.safetensors")}
    assert resolve_model(
        ModelSettings(pretrained_model_name_or_path=str(packs), parts=named), tmp_path
    ).fingerprint("vae") == source.fingerprint("vae")


def test_a_gemma_of_google_s_is_refused_in_a_directory_too(
    tinies: dict[str, ModelSource], packs: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "gemma"
    shutil.copytree(tinies["2.5"].root / "text_encoder", directory / "text_encoder")
    shutil.copytree(tinies["2.5"].root / "tokenizer", directory / "tokenizer")
    assert resolve(packs, tmp_path, text_encoder=str(directory)).version.name == "2.5"
    file = directory / "text_encoder/config.json"
    config = json.loads(file.read_text())
    del config["gemma_version"]
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="without a gemma_version, as Google publishes it"):
        resolve(packs, tmp_path, text_encoder=str(directory))
    with pytest.raises(ModelError, match=r"is a gemma3, but LTX-2\.5 reads the Gemma 4"):
        resolve(packs, tmp_path, text_encoder=str(tinies["2.0"].root))


def test_a_hub_repository_gives_the_packs_of_its_flavour(
    split_models: dict[str, Path], tmp_path: Path
) -> None:
    """Of the repository's own version, where the recipe names none; the client gets a process of its own."""
    cache = tmp_path / "hub/models--Lightricks--LTX-2.5"
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("0" * 40)
    files = flavour_files("2.5-dev")
    published = {file.partition("/")[2]: file for file in (files.file, *files.packs)}
    parts = ("transformer", "gemma4", "video-vae", "audio-vae")
    for written, word in zip(PACKS, parts, strict=True):
        (place,) = (file for name, file in published.items() if word in name)
        (snapshot / place).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / place).symlink_to(split_models["2.5"] / written)
    program = (
        "import sys; from pathlib import Path; from ltxcore.config.model_settings import ModelSettings;"
        "from ltxcore.models.files.source import resolve_model;"
        "given = ModelSettings(pretrained_model_name_or_path='Lightricks/LTX-2.5');"
        "found = resolve_model(given, Path('.'));"
        "print(found.version.name, found.combined.path.name, found.text.path.name)"
    )
    settings = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | settings
        )

    found = run()
    assert found.stdout.split() == ["2.5", Path(files.file).name, Path(files.packs[0]).name], found.stderr
    (snapshot / files.packs[2]).unlink()
    assert f"holds neither the diffusers layout nor {files.packs[2]}" in run().stderr


def test_loras_and_upscalers_beside_the_packs_are_passed_over(packs: Path, tmp_path: Path) -> None:
    save_file({"diffusion_model.x.lora_A.weight": torch.zeros(2)}, packs / "lora.safetensors")
    save_file({"initial_conv.weight": torch.zeros(2)}, packs / "upscaler.safetensors")
    assert resolve(packs, tmp_path).version.name == "2.5"


def test_parts_that_cannot_be_meant_are_refused(
    tinies: dict[str, ModelSource], packs: Path, tmp_path: Path
) -> None:
    def resolved(**settings: Any) -> ModelSource:
        return resolve_model(ModelSettings(**settings), tmp_path)

    with pytest.raises(ModelError, match=r"model\.parts: the vae \./nowhere is not a file on this machine"):
        resolved(parts={"vae": "./nowhere"})
    with pytest.raises(ModelError, match="gives vae and no transformer; name it too"):
        resolved(parts={"vae": str(packs / VIDEO_VAE)})
    with pytest.raises(ModelError, match="is in the diffusers layout, where a part is a folder"):
        resolved(pretrained_model_name_or_path=str(tinies["2.5"].root), parts={"vae": str(packs / VIDEO_VAE)})
    with pytest.raises(ConfigError, match="parts names there too; leave one of them out"):
        parse(ModelSettings, {"text_encoder": "here", "parts": {"text_encoder": "there"}}, "recipe.yaml")
