"""The combined checkpoint: how it and its Gemma are found, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.combined import open_combined
from ltxcore.models.files.source import ModelSource
from tests.unit.models.combined_files import changed, open_source, resolve

LOADERS = {
    "transformer": loading.load_transformer,
    "connectors": loading.load_connectors,
    "vae": loading.load_video_vae,
    "audio_vae": loading.load_audio_vae,
    "vocoder": loading.load_vocoder,
}
ROOT = Path(__file__).parents[3]


def test_gemma_comes_from_the_settings_or_from_beside_the_file(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model" / "ltx-2-19b-dev.safetensors"
    file.parent.mkdir()
    shutil.copy(combined / "2.0-bf16.safetensors", file)
    with pytest.raises(ModelError, match=r"holds no Gemma.*set model\.text_encoder to Gemma 3 12B"):
        resolve(file, tmp_path)
    with pytest.raises(ModelError, match=r"the text encoder \./nowhere is neither a directory"):
        resolve(file, tmp_path, text_encoder="./nowhere")
    apart = resolve(file, tmp_path, text_encoder=str(tinies["2.0"].root))
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(tinies["2.0"].root / name, file.parent / name)
    beside = resolve(file, tmp_path)
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
    assert resolve(root, tmp_path, **given).root.name == "mine.safetensors"
    assert resolve(root, tmp_path, model_flavour="dev-fp8", **given).root.name == "mine.safetensors"
    shutil.copy(combined / "2.3-bf16.safetensors", root / "other.safetensors")
    with pytest.raises(ModelError, match=r"holds 2 checkpoints \(mine.*\), none of them ltx-2-19b-dev\."):
        resolve(root, tmp_path, **given)
    shutil.copy(combined / "2.0-fp4.safetensors", root / "ltx-2-19b-dev-fp4.safetensors")
    assert resolve(root, tmp_path, model_flavour="dev-fp4", **given).root.name.endswith("dev-fp4.safetensors")


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
        "from ltxcore.models.files.source import resolve_model;"
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
    ("name", "flavour", "message"),
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
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, name: str, flavour: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        open_source(combined / f"{name}.safetensors", tinies, tmp_path, model_flavour=flavour)
    version = name[:3]
    wanted = "2.3-dev" if version == "2.0" else "dev"
    with pytest.raises(ModelError, match=rf"holds an LTX-{version} in bf16, but model_flavour {wanted}"):
        resolve(tinies[version].root, tmp_path, model_flavour=wanted)


def test_what_is_no_checkpoint_of_ltx2_is_refused_with_what_was_found(combined: Path, tmp_path: Path) -> None:
    file = combined / "2.0-bf16.safetensors"
    data = file.read_bytes()
    cases: dict[str, tuple[Callable[[Path], object], str]] = {
        "short": (lambda p: p.write_bytes(data[:-1000]), r"is cut short: it has [\d,]+ bytes and its header"),
        "shorter": (lambda p: p.write_bytes(data[:5000]), "is cut short"),
        "text": (lambda p: p.write_bytes(b"<html>" * 99), "is not a safetensors file"),
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
        "newer": (lambda p: changed(file, p, model_version="3.1"), r"LTX-3\.1, which is not known here"),
        "liar": (
            lambda p: changed(file, p, model_version="2.3"),
            r"says that it is an LTX-2\.3, but its weights are those of 2\.0 \(gated_attn false",
        ),
        "broken": (
            lambda p: changed(file, p, config="{"),
            "config in the metadata of .* does not parse",
        ),
    }
    for name, (write, message) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        write(path)
        with pytest.raises(ModelError, match=message):
            open_combined(path)
    with pytest.raises(ModelError, match=r"an LTX-2\.5, but its weights are those of 2\.3"):
        open_combined(
            changed(combined / "2.3-bf16.safetensors", tmp_path / "2.5.safetensors", model_version="2.5.0")
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

    path = changed(combined / "2.0-bf16.safetensors", tmp_path / "spoilt.safetensors", spoil)
    source = open_source(path, tinies, tmp_path)
    with pytest.raises(ModelError) as caught:
        loading.load_transformer(source, torch.bfloat16, "cpu")
    message = str(caught.value)
    assert "1 weights are missing, e.g. transformer_blocks.0.attn1.to_q.bias" in message
    assert "1 weights are not known, e.g. transformer_blocks.0.surprise" in message
    assert "transformer_blocks.0.attn1.to_k.bias is [7] instead of [64]" in message
    with pytest.raises(
        ModelError, match=r"missing, e\.g\. encoder\.mid_block\.resnets\.0\.conv1\.conv\.weight"
    ):
        loading.load_video_vae(source, torch.bfloat16, "cpu")

    def unscale(found: dict[str, torch.Tensor]) -> None:
        del found["model.diffusion_model.transformer_blocks.1.attn2.to_v.weight_scale"]

    for storage, lacks in (("fp8", "lacks its weight_scale of one"), ("fp4", r"weight_scale of 128 x 4 fp8")):
        path = changed(combined / f"2.0-{storage}.safetensors", tmp_path / "unscaled.safetensors", unscale)
        with pytest.raises(ModelError, match=rf"transformer_blocks\.1\.attn2\.to_v\.weight .*{lacks}"):
            open_source(path, tinies, tmp_path).weights("transformer")


def test_tensors_of_no_part_are_reported(
    combined: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def add(found: dict[str, torch.Tensor]) -> None:
        found["text_encoders.gemma.layers.0.weight"] = torch.zeros(3)

    open_combined(changed(combined / "2.0-bf16.safetensors", tmp_path / "more.safetensors", add))
    assert "1 tensors that belong to no part of LTX-2 and are not read: text_encoders.gemma" in caplog.text
