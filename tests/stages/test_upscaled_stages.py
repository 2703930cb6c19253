"""Renderings in two stages through the stages: what is shown, what is refused, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from ltxcore.config.recipe import Recipe
from ltxcore.jobs.checks.job_checks import refusals
from ltxcore.models.errors import ModelError
from ltxcore.models.files.source import ModelSource
from ltxcore.models.tiny.model import seeded
from ltxcore.pipeline.base.here import Here
from ltxcore.stages.render_validation.memory import plan
from ltxcore.stages.render_validation.request import request
from ltxcore.stages.render_validation.standalone_models import fetch_models, models_are_here, upsampler
from tests.hub_server import FakeHub, Repository
from tests.stages.conftest import Bench
from tests.stages.test_guidance_stages import render, small_pictures, train, with_section
from tests.unit.validation.test_render import write_lora
from tests.unit.validation.upsamplers import random_like, tiny_upsampler, write_file, write_folder


def in_two_stages(bench: Bench, file: Path, **more: Any) -> Bench:
    bench = with_section(small_pictures(bench), "validation", upscale=2, **more)
    return with_section(bench, "model", latent_upsampler=str(file))


def refused(bench: Bench) -> str:
    return "\n".join(str(one) for one in refusals(bench.ctx, Here(device="cpu", devices=None)))


def test_both_sides_are_rendered_in_two_stages_and_shown_at_their_size(
    bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    model = tiny_upsampler(tinies["2.0"])
    file = write_file(model, tmp_path / "x2.safetensors")
    plain = with_section(small_pictures(bench), "training", max_train_steps=1, lr_warmup_steps=0)
    bench = in_two_stages(plain, file)
    bench.prepare()
    train(bench)
    assert not refused(bench)
    once = request(bench.ctx)
    assert once.keys() - request(plain.ctx).keys() == {"latent_upsampler"}
    gallery = render(bench.ctx)
    page = (gallery / "index.html").read_text()
    assert "128x128" in page
    assert "the first at 64x64" in page
    assert json.loads((gallery / "measures.json").read_text())["disc"]["base"]["brightness"] is not None
    needed = plan(bench.ctx, "cpu").weights_bytes - plan(plain.ctx, "cpu").weights_bytes
    assert needed == sum(p.numel() for p in model.parameters()) * 4
    # Another upsampler under the same name is another rendering.
    with seeded(3):
        random_like(model)
    write_file(model, file)
    assert request(bench.ctx)["latent_upsampler"] != once["latent_upsampler"]


def other_file(source: ModelSource, what: str, folder: Path) -> Path:
    """A file or folder that is no x2 upsampler of the tiny 2.0."""
    if what == "a LoRA":
        write_lora(source, folder / "lora.safetensors")
        return folder / "lora.safetensors"
    if what == "a folder":
        write_file(tiny_upsampler(source), folder / "model" / "x2.safetensors")
        return folder / "model"
    if what == "of time":
        changed = {"spatial_upsample": False, "temporal_upsample": True}
        return write_file(tiny_upsampler(source, **changed), folder / "time.safetensors")
    if what == "of 2.3":
        return write_file(tiny_upsampler(source), folder / "ltx-2.3-spatial-upscaler-x2-1.0.safetensors")
    if what == "said to be of 2.5":
        return write_file(tiny_upsampler(source), folder / "ltx-2-mine.safetensors", model_version="2.5.0")
    if what == "by 1.5":
        changed = {"use_rational_resampler": True, "rational_spatial_scale": 1.5}
        return write_folder(tiny_upsampler(source, **changed), folder / "half")
    return write_file(tiny_upsampler(source, in_channels=8), folder / "narrow.safetensors")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a LoRA", "lora.safetensors is not a latent upsampler: the config of its metadata names no class"),
        ("a folder", "no folder latent_upsampler in the diffusers layout; name one of its files, x2.safeten"),
        ("of time", "is an upsampler of time, and validation.upscale doubles width and height; give the"),
        ("by 1.5", "is an upsampler by 1.5"),
        (
            "of 2.3",
            "LTX-2.3, whose latents are not those of LTX-2.0; write model.latent_upsampler: Lightricks",
        ),
        ("said to be of 2.5", "LTX-2.5, whose latents are not those of LTX-2.0"),
        ("narrow", "latents of 8 channels, and those of"),
    ],
)
def test_another_upsampler_is_refused_before_the_first_stage(
    what: str, said: str, bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    file = other_file(tinies["2.0"], what, tmp_path)
    assert said in refused(in_two_stages(bench, file))


def test_what_is_missing_or_has_no_effect_is_refused_before_the_first_stage(
    bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    wanted = "write model.latent_upsampler: Lightricks/LTX-2:ltx-2-spatial-upscaler-x2-1.0.safetensors"
    without = with_section(small_pictures(bench), "validation", upscale=2)
    assert wanted in refused(without)
    assert "is nothing on this machine; give a .safetensors" in refused(
        with_section(without, "model", latent_upsampler="/nowhere/x2.safetensors")
    )
    # What is on the hub is looked at once it is here.
    later = with_section(without, "model", latent_upsampler="someone/ltx:x2.safetensors")
    assert not refused(later)
    hub = with_section(without, "model", pretrained_model_name_or_path="Lightricks/LTX-2.3")
    assert "write model.latent_upsampler: Lightricks/LTX-2.3:ltx-2.3-spatial-upscaler" in refused(hub)
    file = write_file(tiny_upsampler(tinies["2.0"]), tmp_path / "x2.safetensors")
    lora = tmp_path / "distilled.safetensors"
    write_lora(tinies["2.0"], lora, metadata={"model_version": "2.3.0"})
    told = refused(in_two_stages(bench, file, upscale_lora=str(lora)))
    assert "is a LoRA of LTX-2.3 (model_version in its header), and the model is an LTX-2.0" in told
    write_lora(tinies["2.0"], lora)
    assert not refused(in_two_stages(bench, file, upscale_lora=str(lora)))
    clips = (bench.root / "datasets.yaml").read_text()
    sounds = "- {id: s, dataset_type: audio, instance_data_dir: clips, audio: {audio_only: true}}\n"
    text = "- {id: text, dataset_type: text_embeds}\n"
    (bench.root / "datasets.yaml").write_text(sounds + text)
    assert "all data is sound, of which none are rendered" in refused(in_two_stages(bench, file))
    (bench.root / "datasets.yaml").write_text(clips)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"upscale_lora": "a.safetensors"}, "for the second stage, and there is one; write upscale: 2"),
        ({"upscale": 2, "validation_modality": "audio"}, "doubles pictures, and validation_modality: audio"),
        ({"upscale": 3}, "Input should be 1 or 2"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate({"validation": keys})


def test_an_upsampler_on_the_hub_is_fetched_once_and_offline_only_what_is_here_is_used(
    bench: Bench,
    tinies: dict[str, ModelSource],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_upsampler(tinies["2.0"])
    file = write_file(model, tmp_path / "x2.safetensors")
    folder = write_folder(model, tmp_path / "model")
    files = {f"latent_upsampler/{p.name}": p.read_bytes() for p in (folder / "latent_upsampler").iterdir()}
    hub.repositories["me/ltx"] = Repository(
        private=False, files={"up/x2.safetensors": file.read_bytes(), **files}
    )
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("me/ltx:up/x2.safetensors", "me/ltx"):
        there = with_section(in_two_stages(bench, file), "model", latent_upsampler=name)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not models_are_here(there.recipe)
        assert "HF_HUB_OFFLINE is set; unset it to download" in refused(there)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert not refused(there)
        fetch_models(there.recipe)
        assert models_are_here(there.recipe)
        asked = len(hub.requests)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not refused(there)
        found = upsampler(there.ctx)
        assert found is not None
        assert found.values == sum(parameter.numel() for parameter in model.parameters())
        assert len(hub.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    missing = with_section(in_two_stages(bench, file), "model", latent_upsampler="me/ltx:up/none.safetensors")
    with pytest.raises(ModelError, match=r"me/ltx holds no up/none\.safetensors; look at the names"):
        fetch_models(missing.recipe)
