"""Finding a model, and fingerprints that are computed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.hashes import FINGERPRINTS, remembered_hashes
from ltxcore.models.files.source import ModelSource, prepare_model, resolve_model
from ltxcore.models.versions import COMPONENTS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tiny(tmp_path: Path) -> ModelSource:
    return prepare_model(ModelSettings(), tmp_path / "models")


def _given(path: Path | str, **more: str) -> ModelSettings:
    return ModelSettings(pretrained_model_name_or_path=str(path), **more)


def test_the_parent_process_resolves_without_torch(tiny: ModelSource) -> None:
    program = (
        "import sys; from pathlib import Path; from ltxcore.config.model_settings import ModelSettings;"
        "from ltxcore.models.files.source import resolve_model;"
        "s = resolve_model(ModelSettings(), Path(sys.argv[1]));"
        "print(s.version.name, s.text_max_tokens, s.fingerprint('vae'));"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tiny.models_dir)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2.0", "128", tiny.fingerprint("vae")]


def test_resolving_writes_nothing_and_says_what_does(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny model is not in .* yet; `ltx2 run` and the train-ltx2 flow"):
        resolve_model(ModelSettings(), tmp_path)
    assert not list(tmp_path.iterdir())
    prepared = prepare_model(ModelSettings(), tmp_path)
    assert resolve_model(ModelSettings(), tmp_path) == prepared
    assert resolve_model(_given(prepared.root), tmp_path) == prepared


def test_a_tiny_model_of_an_older_code_is_written_anew(tiny: ModelSource) -> None:
    stamp = tiny.root / "tiny.json"
    stamp.write_text(stamp.read_text().replace('"revision": 1', '"revision": 0'))
    with pytest.raises(ModelError, match="this version of the tiny model"):
        resolve_model(ModelSettings(), tiny.models_dir)
    prepare_model(ModelSettings(), tiny.models_dir)
    assert '"revision": 1' in stamp.read_text()


def test_paths_that_cannot_be_used_say_what_to_give(tmp_path: Path) -> None:
    empty = tmp_path / "ltx-2-19b-dev.safetensors"
    empty.write_bytes(b"")
    with pytest.raises(ModelError, match="is not a safetensors file"):
        resolve_model(_given(empty), tmp_path)
    for wrong in (tmp_path / "absent", "./absent/model", "ltx2", "models/ltx2.safetensors"):
        with pytest.raises(ModelError, match="neither a file nor a directory on this machine nor a hub id"):
            resolve_model(_given(wrong), tmp_path)


def test_a_hub_id_comes_from_the_cache_or_not_at_all_when_offline(tmp_path: Path, tiny: ModelSource) -> None:
    # The hub client reads its settings when it is imported, so it gets a process of its own.
    cache = tmp_path / "hub" / "models--someone--ltx2"
    program = (
        "import sys; from pathlib import Path; from ltxcore.config.model_settings import ModelSettings;"
        "from ltxcore.models.files.source import prepare_model;"
        "print(prepare_model(ModelSettings(pretrained_model_name_or_path='someone/ltx2'), Path('.')).root)"
    )

    def run() -> subprocess.CompletedProcess[str]:
        settings = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | settings
        )

    assert "HF_HUB_OFFLINE is set; unset it to download, or give a directory" in run().stderr
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / ("0" * 40)).symlink_to(tiny.root)
    found = run()
    assert found.stdout.strip() == str(cache / "snapshots" / ("0" * 40)), found.stderr


def test_a_missing_component_is_named(tiny: ModelSource) -> None:
    (tiny.root / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the vae in .* lacks diffusion_pytorch_model\.safetensors"):
        tiny.fingerprint("vae")
    (tiny.root / "vocoder").rename(tiny.root / "elsewhere")
    with pytest.raises(ModelError, match=r"has no vocoder: the folder .*vocoder does not exist"):
        tiny.fingerprint("vocoder")
    with pytest.raises(ModelError, match="'unet' is not a component of LTX-2; known: transformer"):
        tiny.component("unet")


def test_fingerprints_follow_contents_and_configuration_and_nothing_else(tiny: ModelSource) -> None:
    before = {name: tiny.fingerprint(name) for name in COMPONENTS}
    assert len(set(before.values())) == len(COMPONENTS)

    config = tiny.root / "vae" / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps(data | {"_diffusers_version": "9.9"}))
    assert tiny.fingerprint("vae") == before["vae"]
    config.write_text(json.dumps(data | {"scaling_factor": 2.0}))
    assert tiny.fingerprint("vae") != before["vae"]

    weights = tiny.root / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = {name for name in COMPONENTS if tiny.fingerprint(name) != before[name]}
    assert changed == {"vae", "transformer"}


def test_a_file_is_hashed_once(tiny: ModelSource) -> None:
    first = tiny.fingerprint("transformer")
    memory = tiny.models_dir / FINGERPRINTS
    known = json.loads(memory.read_text())
    for entry in known.values():
        entry["sha256"] = "0" * 64
    memory.write_text(json.dumps(known))
    # Whoever trusts the memory takes what it says, and must not read.
    remembered = tiny.fingerprint("transformer")
    assert remembered != first
    memory.unlink()
    assert tiny.fingerprint("transformer") == first


def test_writers_at_the_same_time_lose_no_hash(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(24)]
    for number, file in enumerate(files):
        file.write_text(str(number))
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(remembered_hashes, [[file] for file in files], [tmp_path] * len(files)))
    remembered = json.loads((tmp_path / FINGERPRINTS).read_text())
    assert set(remembered) == {str(file.resolve()) for file in files}


def test_gemma_may_stand_apart_from_the_model(tmp_path: Path, tiny: ModelSource) -> None:
    gemma = tmp_path / "gemma"
    gemma.mkdir()
    for component in ("text_encoder", "tokenizer"):
        for file in (tiny.root / component).iterdir():
            file.rename(gemma / file.name)
        (tiny.root / component).rmdir()
    with pytest.raises(ModelError, match="has no text_encoder"):
        tiny.fingerprint("text_encoder")
    apart = resolve_model(_given(tiny.root, text_encoder=str(gemma)), tiny.models_dir)
    assert apart.component("text_encoder") == apart.component("tokenizer") == gemma
    assert apart.text_max_tokens == 128
    assert apart.fingerprint("text_encoder") != apart.fingerprint("tokenizer")
    assert apart.fingerprint("transformer") == tiny.fingerprint("transformer")
