"""A combined checkpoint taken apart into packs, as LTX-2.5 is published and ComfyUI keeps 2.3."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltxcore.models.files.source import ModelSource

TRANSFORMER = "diffusion_models/transformer.safetensors"
TEXT = "text_encoders/text.safetensors"
VIDEO_VAE = "vae/video-vae.safetensors"
AUDIO_VAE = "vae/audio-vae.safetensors"
PACKS = (TRANSFORMER, TEXT, VIDEO_VAE, AUDIO_VAE)
PROJECTIONS = "text_embedding_projection."


def split(combined: Path, source: ModelSource, root: Path) -> Path:
    """Write the packs of a combined file under `root`; 2.5's text pack has Gemma and its tokenizer in it."""
    tensors = load_file(combined)
    with safe_open(combined, "pt") as file:
        metadata = dict(file.metadata())
    config = json.loads(metadata.pop("config"))
    gemma = {"gemma_source_checkpoint": metadata.pop("gemma_source_checkpoint")}

    def write(file: str, found: dict[str, torch.Tensor], *sections: str, **more: str) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        stored = {key: section if key in sections else None for key, section in config.items()}
        save_file(found, root / file, {**metadata, "config": json.dumps(stored), **more})

    def under(*prefixes: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}

    write(TRANSFORMER, under("model.diffusion_model."), "transformer", "scheduler", **gemma)
    bare = {name.removeprefix("vae."): tensor for name, tensor in under("vae.").items()}
    write(VIDEO_VAE, bare, "vae")
    write(AUDIO_VAE, under("audio_vae.", "vocoder."), "audio_vae", "vocoder")
    text, told = under(PROJECTIONS), {}
    if source.version.text_encoder.tuned is not None:
        text |= tower(source) | tokenizer(source)
        told = {"gemma_config": json.dumps(source.config("text_encoder"))}
    write(TEXT, text, **told)
    return root


def tower(source: ModelSource) -> dict[str, torch.Tensor]:
    """Gemma under the names of a pack."""
    (file,) = source.weight_files("text_encoder")
    found = load_file(file)
    return {
        name.replace("model.language_model.", "model."): tensor
        for name, tensor in found.items()
        if ".language_model." in name
    } | {"vision_model.patch_dense.weight": torch.zeros(2, 2)}


def tokenizer(source: ModelSource) -> dict[str, torch.Tensor]:
    """The tokenizer's files as tensors of bytes."""
    directory = source.component("tokenizer")
    return {
        name: torch.frombuffer(bytearray((directory / file).read_bytes()), dtype=torch.uint8)
        for name, file in (
            ("tokenizer_json", "tokenizer.json"),
            ("hf_asset__tokenizer_config.json", "tokenizer_config.json"),
        )
    }


def rewrite(file: Path, change: object = None, **metadata: str | None) -> None:
    """Write a pack again with other tensors or metadata; None takes a key away."""
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        header = {**opened.metadata(), **metadata}
    if callable(change):
        tensors = change(tensors)
    save_file(tensors, file, {key: value for key, value in header.items() if value is not None})
