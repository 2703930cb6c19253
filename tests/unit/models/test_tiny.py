"""The tiny model: its bytes, its layout, and that it behaves as an LTX-2 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltxcore.models.errors import ModelError
from ltxcore.models.tiny.model import write_tiny
from ltxcore.models.tiny.text import MAX_TOKENS
from ltxcore.models.versions import VERSIONS
from ltxcore.store.fingerprint import hash_file


def _hashes(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hash_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_seed_gives_the_same_bytes_whatever_the_callers_generator_holds(
    tmp_path: Path, version: str
) -> None:
    state = torch.get_rng_state()
    write_tiny(tmp_path / "a", version)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    write_tiny(tmp_path / "b", version)
    write_tiny(tmp_path / "c", version, seed=1)

    a, b, c = (_hashes(tmp_path / name) for name in "abc")
    assert a == b
    weights = [name for name in a if name.endswith(".safetensors")]
    assert len(weights) == 6
    assert all(a[name] != c[name] for name in weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_writing_again_leaves_the_files_and_another_version_replaces_them(tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    write_tiny(directory)
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    write_tiny(directory)
    assert {p: p.stat().st_mtime_ns for p in directory.rglob("*")} == before
    write_tiny(directory, "2.3")
    assert '"2.3"' in (directory / "tiny.json").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_a_directory_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="holds something else"):
        write_tiny(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ModelError, match=r"'1\.9' is not known; give one of 2\.0, 2\.3, 2\.5"):
        write_tiny(tmp_path / "x", "1.9")


@pytest.mark.parametrize(("version", "rate"), [("2.0", 24_000), ("2.3", 48_000), ("2.5", 48_000)])
def test_the_stock_pipeline_renders_with_it(tmp_path: Path, version: str, rate: int) -> None:
    from diffusers import LTX2Pipeline

    write_tiny(tmp_path / "tiny", version)
    pipeline = LTX2Pipeline.from_pretrained(tmp_path / "tiny", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        "a red ball",
        height=64,
        width=96,
        num_frames=17,
        frame_rate=25.0,
        num_inference_steps=2,
        spatio_temporal_guidance_blocks=[1],
        max_sequence_length=MAX_TOKENS,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    assert result.frames.shape == (1, 17, 3, 64, 96)
    assert 0.05 < result.frames.std() < 0.5
    # 17 frames at 25 fps are 17 latents, 4 * 17 - 3 mel frames of 10 ms.
    assert result.audio.shape == (1, 2, 65 * rate // 100)
    assert torch.isfinite(result.audio).all()
    assert result.audio.std(dim=-1).min() > 0.001


def test_the_schedule_is_the_references(tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    write_tiny(tmp_path)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 8, 8).tolist(), mu=2.05)
    expected = [1, 0.9657, 0.9219, 0.8639, 0.7834, 0.6646, 0.4710, 0.1, 0]
    assert scheduler.sigmas.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_tokenizer_is_gemmas_kind(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tiny(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer("").input_ids == [2]
    write_tiny(tmp_path / "newer", "2.5")
    newer = AutoTokenizer.from_pretrained(tmp_path / "newer" / "tokenizer", local_files_only=True)
    assert newer("ab").input_ids == tokenizer("ab").input_ids[1:], "BOS is left to its user"
    assert tokenizer.model_max_length == MAX_TOKENS
    padded = tokenizer(["añ 雪"], padding="max_length", max_length=11)
    assert padded.input_ids[0][:4] == [0, 0, 0, 2]
    assert tokenizer.decode(padded.input_ids[0], skip_special_tokens=True) == "añ 雪"
