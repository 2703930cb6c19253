"""Makes the toy LTX-2: draws clips, trains every part, writes the combined checkpoint and its Gemma.

    python -m bench.toy.make WORK

trains into WORK, continuing what is there, and writes `ltxcore/models/toy/`, which is shipped. About an hour
and a half on two cores. `python -m bench.toy.judge` then measures what it draws; docs/toy.md has the figures.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.toy.captions import captioned
from bench.toy.fitting import load_fitted
from bench.toy.latents import AT_ONCE, DURATION_S, encode_pool
from bench.toy.sizes import MAX_TOKENS, VERSION
from bench.toy.sound_models import make_audio_vae, make_vocoder, train_audio_vae, train_vocoder
from bench.toy.text_encoder import write_text_encoder
from bench.toy.transformer import Denoiser, train_denoiser
from bench.toy.video_vae import make_video_vae, train_video_vae
from ltxcore.models.files.combined_writer import write_combined
from ltxcore.models.files.locate_weights import TOY_CHECKPOINT, toy_directory
from ltxcore.models.files.source import ModelSource
from ltxcore.models.text.caption_encoder import CaptionEncoder, FeatureExtractor
from ltxcore.models.vae.mel import log_mel
from ltxcore.store.fingerprint import derive_seed

MEASURED_CLIPS = 384
LEAST_SPREAD = 0.1
"""Of the widest channel's: a channel that hardly changes is not blown up to unit variance."""


def train(work: Path) -> None:
    """Train every part in `work`, or continue; what is done is not done again."""
    train_video_vae(work)
    train_audio_vae(work)
    vae, audio_vae = autoencoders(work)
    write_text_encoder(work / "text")
    encoder = caption_encoder(work / "text", Denoiser().connectors)
    train_denoiser(encode_pool(vae, audio_vae, encoder, work / "pool.safetensors"), work)
    train_vocoder(work)


def assemble(work: Path, directory: Path) -> None:
    """Write what was trained in `work` so far: a combined checkpoint, Gemma and its tokenizer."""
    vae, audio_vae = autoencoders(work)
    denoiser, vocoder = Denoiser(), make_vocoder()
    load_fitted(denoiser, work / "denoiser.safetensors")
    load_fitted(vocoder, work / "vocoder.safetensors")
    parts = {
        "transformer": denoiser.transformer,
        "connectors": denoiser.connectors,
        "vae": vae,
        "audio_vae": audio_vae,
        "vocoder": vocoder,
    }
    plain = work / "diffusers"
    for name, part in parts.items():
        part.save_pretrained(plain / name, safe_serialization=True)
    write_combined(ModelSource(plain, VERSION, work / "text", work), directory / TOY_CHECKPOINT)
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(work / "text" / name, directory / name, dirs_exist_ok=True)
    for file in directory.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def autoencoders(work: Path) -> tuple[Any, Any]:
    """The trained VAEs as they are shipped, with the statistics of their latents."""
    vae, audio_vae = make_video_vae(), make_audio_vae()
    load_fitted(vae, work / "vae.safetensors")
    load_fitted(audio_vae, work / "audio_vae.safetensors")
    vae, audio_vae = rounded(vae), rounded(audio_vae)
    measure_latents(vae, audio_vae)
    return vae, audio_vae


def rounded(model: Any) -> Any:
    """The model as it is shipped: its values are those of bf16."""
    return model.to(torch.bfloat16).float().eval().requires_grad_(False)


@torch.no_grad()
def measure_latents(vae: Any, audio_vae: Any) -> None:
    """Set the statistics with which latents are normalised from those of drawn clips."""
    from diffusers import LTX2Pipeline

    rng = np.random.default_rng(derive_seed(0, "toy", "statistics"))
    videos, sounds = [], []
    for _ in range(MEASURED_CLIPS // AT_ONCE):
        clips = [captioned(rng).clip for _ in range(AT_ONCE)]
        pixels = torch.from_numpy(np.stack([clip.frames(96, 96) for clip in clips])).permute(0, 4, 1, 2, 3)
        videos.append(vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode())
        waves = torch.from_numpy(np.stack([clip.sound(DURATION_S, 16_000) for clip in clips]))
        mel = log_mel(waves, audio_vae.config.mel_bins)
        sounds.append(LTX2Pipeline._pack_audio_latents(audio_vae.encode(mel).latent_dist.mode()))
    _set_statistics(vae, torch.cat(videos).transpose(0, 1).flatten(1))
    _set_statistics(audio_vae, torch.cat(sounds).flatten(0, 1).T)


def _set_statistics(vae: Any, values: torch.Tensor) -> None:
    """`values` are `[channels, N]`."""
    std = values.std(1)
    vae.latents_mean.copy_(values.mean(1).bfloat16())
    vae.latents_std.copy_(std.clamp(min=LEAST_SPREAD * std.max()).bfloat16())


def caption_encoder(text: Path, connectors: Any) -> CaptionEncoder:
    """Gemma and the feature extractor, as they will be shipped."""
    from transformers import AutoTokenizer, Gemma3TextModel

    extractor = FeatureExtractor(dict(connectors.config))
    extractor.text_proj_in.load_state_dict(connectors.text_proj_in.state_dict())
    return CaptionEncoder(
        AutoTokenizer.from_pretrained(text / "tokenizer"),
        Gemma3TextModel.from_pretrained(text / "text_encoder", dtype=torch.float32).eval(),
        extractor.eval(),
        MAX_TOKENS,
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]))
    assemble(Path(sys.argv[1]), toy_directory())
