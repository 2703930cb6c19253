"""Captions to text features.

`CaptionEncoder` runs Gemma and the feature extractor: its features, a few kilobytes a token, are what is
stored. `ltxcore.models.text.text_connectors` makes of them what the transformer reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ltxcore.models.files.assembling import fill, require_fit
from ltxcore.models.files.source import ModelSource


@dataclass(frozen=True)
class TextFeatures:
    """A caption after the feature extractor, real tokens only."""

    video: torch.Tensor
    """`[T, D]`; T counts BOS."""
    audio: torch.Tensor | None = None
    """`[T, Da]`, or None where the version shares one feature between both modalities."""
    truncated_from: int = 0
    """The caption's own token count where it was cut, else 0."""


class FeatureExtractor(nn.Module):
    """The part of `LTX2TextConnectors` before its transformers: normalisation and one linear a modality.

    V1 (2.0): per layer, 8 (x - mean) / (max - min) over the caption, one projection shared by both.
    V2 (2.3): per token and layer RMS norm, scaled by sqrt(out / in), one projection for each.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.channels = int(config["caption_channels"])
        self.per_modality = bool(config.get("per_modality_projections", False))
        flat = self.channels * int(config["text_proj_in_factor"])
        bias = bool(config.get("proj_bias", False))
        if self.per_modality:
            self.video_text_proj_in = nn.Linear(flat, int(config["video_hidden_dim"]), bias=bias)
            self.audio_text_proj_in = nn.Linear(flat, int(config["audio_hidden_dim"]), bias=bias)
        else:
            self.text_proj_in = nn.Linear(flat, self.channels, bias=bias)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features of one caption.

        Args:
            hidden: `[T, channels, layers]`, real tokens only.

        Returns:
            `[T, D]` for the video and `[T, Da]` for the sound, or None where they share the first.
        """
        normed = normalise(hidden.to(next(self.parameters()).dtype), self.per_modality)
        if not self.per_modality:
            return self.text_proj_in(normed), None
        video, audio = (linear(normed * self.scale(linear)) for linear in self.projections())
        return video, audio

    def projections(self) -> list[nn.Linear]:
        """The linear of the video and that of the sound, or the one that they share."""
        if self.per_modality:
            return [self.video_text_proj_in, self.audio_text_proj_in]
        return [self.text_proj_in]

    def scale(self, linear: nn.Linear) -> float:
        """What the normalised states are multiplied by before a projection: sqrt(out / in) in V2."""
        return math.sqrt(linear.out_features / self.channels) if self.per_modality else 1.0


def normalise(hidden: torch.Tensor, per_modality: bool) -> torch.Tensor:
    """`[T, channels, layers]` of one caption -> `[T, channels * layers]`; V2 where `per_modality`."""
    from diffusers.pipelines.ltx2.connectors import per_layer_masked_mean_norm, per_token_rms_norm

    if per_modality:
        return per_token_rms_norm(hidden[None]).flatten(2)[0]
    lengths = torch.tensor([hidden.shape[0]], device=hidden.device)
    return per_layer_masked_mean_norm(hidden[None], lengths, hidden.device)[0]


def load_feature_extractor(
    source: ModelSource, dtype: torch.dtype, device: torch.device | str
) -> FeatureExtractor:
    """The extractor alone: only its tensors are read from the connectors' files.

    Raises:
        ModelError: the connectors are missing, or lack the extractor's weights.
    """
    with torch.device("meta"):
        extractor = FeatureExtractor(source.config("connectors"))
    wanted = set(extractor.state_dict())
    weights = {name: weight for name, weight in source.weights("connectors").items() if name in wanted}
    require_fit(extractor, weights, "feature extractor of the connectors", source.component("connectors"))
    fill(extractor, weights, dtype, device)
    return extractor.eval().requires_grad_(False)


def caption_tokens(tokenizer: Any, caption: str) -> list[int]:
    """A caption's token ids, BOS in front; the empty caption is BOS alone.

    2.5's tokenizer adds none, and its model was trained with it.
    """
    tokens: list[int] = tokenizer(caption.strip(), add_special_tokens=True, verbose=False)["input_ids"]
    return tokens if tokens[:1] == [tokenizer.bos_token_id] else [tokenizer.bos_token_id, *tokens]


class CaptionEncoder:
    """Gemma and the feature extractor.

    Each caption goes through Gemma alone and without padding, at the positions that left padding to
    `max_tokens` would give it. That is the padded computation, less the padding: a caption's features
    cannot depend on its neighbours in a batch, and short captions cost little.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_model: Any,
        extractor: FeatureExtractor,
        max_tokens: int,
        feature_dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
    ) -> None:
        """`device` is where Gemma computes; None: where its weights are."""
        self._device = torch.device(device) if device is not None else text_model.device
        self._tokenizer = tokenizer
        self._text_model = text_model
        self._extractor = extractor
        self._max_tokens = max_tokens
        self._feature_dtype = feature_dtype

    def count_tokens(self, caption: str) -> int:
        """Tokens that a caption takes of Gemma."""
        return min(len(caption_tokens(self._tokenizer, caption)), self._max_tokens)

    def encode(self, captions: Sequence[str]) -> list[TextFeatures]:
        """The features of each caption, on the CPU. The empty caption is BOS alone."""
        return [self._encode(caption) for caption in captions]

    @torch.no_grad()
    def _encode(self, caption: str) -> TextFeatures:
        tokens = caption_tokens(self._tokenizer, caption)
        count = len(tokens)
        kept = tokens[: self._max_tokens]
        device = self._device
        positions = torch.arange(self._max_tokens - len(kept), self._max_tokens, device=device)
        output = self._text_model(
            input_ids=torch.tensor([kept], device=device),
            position_ids=positions[None],
            output_hidden_states=True,
            use_cache=False,
        )
        # The embeddings and every layer's output, feature-major: [T, channels, layers + 1].
        hidden = torch.stack(output.hidden_states, dim=-1)[0]
        video, audio = self._extractor(hidden)
        return TextFeatures(
            video=video.to("cpu", self._feature_dtype),
            audio=None if audio is None else audio.to("cpu", self._feature_dtype),
            truncated_from=count if count > self._max_tokens else 0,
        )
