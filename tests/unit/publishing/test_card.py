"""The model card, the public copy of a LoRA file, and the recipe's keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import load_recipe
from ltxcore.publishing.card import CardFacts, CardSample, model_card
from ltxcore.publishing.public_file import write_public
from tests.unit.test_pages import Read

FACTS = CardFacts(
    base_model="Lightricks/LTX-2",
    kind="lora",
    size="16",
    steps=300,
    trained_steps=400,
    learning_rate=6e-5,
    trigger="sks",
    makes_video=True,
    makes_sound=True,
    diffusers_file="pytorch_lora_weights.safetensors",
    comfyui_file="ltx2_lora_comfyui.safetensors",
    averaged_files=(),
    held_out=(0.5, 0.25),
    samples=(
        CardSample("sea", 'A <b>sks</b> sea:\n "night" # 1', "samples/sea-lora.mp4", "samples/sea-base.mp4"),
        CardSample("unconditional", "", "samples/un-lora.mp4", "samples/un-base.mp4"),
    ),
    contact_sheet="samples/contact-sheet.png",
    licence=("ltx-2-community-license-agreement", "https://github.com/Lightricks/LTX-2/blob/main/LICENSE.md"),
)


ATTACKS = (
    """<script>alert('1')</script> & "quoted" {{ 7*7 }} {% raw %} {{ metadata }}""",
    "sks\n---\nbase_model: evil/model\n---\n# heading",
    "![picture](https://evil.test/x.png) [link](javascript:alert(1)) `code` ~~gone~~ <b>bold</b>",
    "# 1: - {a: b}, *anchor &anchor !!python/object 'x' \"y",
)


def test_the_metadata_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(FACTS, "me/lora")).data.to_dict()
    assert data == {
        "base_model": "Lightricks/LTX-2",
        "library_name": "diffusers",
        "license": "other",
        "license_name": "ltx-2-community-license-agreement",
        "license_link": "https://github.com/Lightricks/LTX-2/blob/main/LICENSE.md",
        "pipeline_tag": "text-to-video",
        "tags": ["lora", "ltx-2", "ltx-video", "text-to-video", "audio"],
        "instance_prompt": "sks",
        "widget": [
            {"text": 'A <b>sks</b> sea:\n "night" # 1', "output": {"url": "samples/sea-lora.mp4"}},
        ],
    }


def test_the_text_says_what_it_is_and_how_it_is_loaded() -> None:
    text = ModelCard(model_card(FACTS, "me/lora")).text
    assert 'LTX2Pipeline.from_pretrained("Lightricks/LTX-2"' in text
    assert 'pipe.load_lora_weights("me/lora", weight_name="pytorch_lora_weights.safetensors")' in text
    assert "[ltx2_lora_comfyui.safetensors](ltx2_lora_comfyui.safetensors) into `models/loras`" in text
    assert "| Rank | 16 |" in text
    assert "| Steps | 300 of 400 |" in text
    assert "| Loss on held-out clips | 0.2500 (the base: 0.5000) |" in text
    assert "A &lt;b&gt;sks&lt;/b&gt; sea:" in text
    assert "<Gallery />" in text
    assert "](https://github.com/Lightricks/LTX-2/blob/main/LICENSE.md); read it before" in text
    assert "[with the adapter](samples/un-lora.mp4)" in text


@pytest.mark.parametrize("prompt", ATTACKS)
def test_any_prompt_is_text_in_the_card(prompt: str) -> None:
    sample = CardSample("sea", prompt, "samples/a.mp4", "samples/b.mp4")
    card = ModelCard(model_card(replace(FACTS, trigger=prompt, samples=(sample,)), "me/lora"))
    data = card.data.to_dict()
    assert data["instance_prompt"] == prompt
    assert [shown["text"] for shown in data["widget"]] == [prompt]
    assert data["base_model"] == FACTS.base_model
    lines = " ".join(prompt.split())
    read = Read(MarkdownIt("commonmark").enable("table").render(card.text))
    assert f"Write {lines} in the prompt" in read.text
    assert read.text.count(lines) == 2
    assert not {"script", "b"} & set(read.tags)
    assert read.tags.count("a") == 5, "the base, its licence, the file, the renderings"
    assert read.tags.count("img") == 1, "the contact sheet"


def test_a_card_says_only_what_there_is() -> None:
    bare = replace(
        FACTS,
        base_model=None,
        kind="lokr",
        trigger="",
        held_out=None,
        samples=(),
        contact_sheet=None,
        licence=None,
    )
    card = ModelCard(model_card(replace(bare, makes_video=False), "me/lora"))
    data = card.data.to_dict()
    assert data["tags"] == ["lora", "lokr", "ltx-2", "ltx-video", "text-to-audio", "audio"]
    assert not {"base_model", "instance_prompt", "widget", "license", "license_name"} & data.keys()
    for word in ("diffusers:", "Gallery", "Samples", "held-out", "prompt to call"):
        assert word not in card.text
    assert "Steps | 300 of 400" in card.text


def test_the_public_copy_has_the_weights_and_no_recipe(tmp_path: Path) -> None:
    weights = {"a": torch.randn(5, 3), "b": torch.ones(7, dtype=torch.bfloat16)}
    header = {"recipe": '{"text_encoder": "/home/me/gemma"}', "trigger": "é", "rank": "4"}
    source = tmp_path / "lora.safetensors"
    save_file(weights, source, metadata=header)
    copy = write_public(source, tmp_path / "copy.safetensors")
    assert b"/home/me" not in copy.read_bytes()
    for name, tensor in load_file(copy).items():
        assert torch.equal(tensor, weights[name])
    with safe_open(copy, "pt") as opened:
        assert opened.metadata() == {"trigger": "é", "rank": "4"}
    assert write_public(source, tmp_path / "again").read_bytes() == copy.read_bytes()


def recipe(tmp_path: Path, hub: dict[str, Any]) -> Path:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"hub": hub}, indent=0))
    return file


@pytest.mark.parametrize("name", ["lora", "my-name/my.lora_1", "a/b", "x" * 96])
def test_names_of_repositories(tmp_path: Path, name: str) -> None:
    hub = load_recipe(recipe(tmp_path, {"push_to_hub": True, "hub_model_id": name})).hub
    assert (hub.hub_model_id, hub.hub_private) == (name, True)


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "/lora", "me/", "me/-lora", "me/lora.git", "me/lo--ra", "me/lo ra", "é", "x" * 97]
)
def test_what_is_no_name_of_a_repository_is_refused(tmp_path: Path, name: str) -> None:
    message = r"recipe.json:3: hub.hub_model_id: found .* write `name` or `owner/name`"
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe(tmp_path, {"hub_model_id": name}))


def test_an_upload_needs_a_repository(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"hub: push_to_hub is true, .* write e.g. hub_model_id: my-name/my"
    ):
        load_recipe(recipe(tmp_path, {"push_to_hub": True}))
    assert not load_recipe(recipe(tmp_path, {})).hub.push_to_hub
