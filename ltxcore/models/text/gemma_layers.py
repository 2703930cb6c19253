"""Captions through Gemma one layer at a time: two layers in memory instead of forty-eight.

The feature of a caption is a sum over layers: both normalisations look at one layer's states alone, and the
projection is linear over their concatenation (feature-major, layer-minor in its weight). So all captions of a
batch pass one layer together, their part of the sum is added, and the layer makes room for the next, which
is read from the file meanwhile. Each weight is read once a batch.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from ltxcore.models.errors import ModelError
from ltxcore.models.files.loading import load_text_config, text_class
from ltxcore.models.files.reading import Reader
from ltxcore.models.files.source import ModelSource
from ltxcore.models.text.caption_encoder import FeatureExtractor, TextFeatures, caption_tokens, normalise

logger = logging.getLogger(__name__)

EMBEDDINGS, FINAL_NORM = "embed_tokens.weight", "norm.weight"


class TowerFile:
    """The tensors of Gemma's language model, each read when it is asked for."""

    def __init__(self, source: ModelSource) -> None:
        self.directory = source.component("text_encoder")
        self._weights = source.weights("text_encoder")

    def require(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Check that the file holds these tensors.

        Raises:
            ModelError: one is missing, or has another shape.
        """
        found = {name: weight.shape for name, weight in self._weights.items()}
        faulty = [name for name, shape in shapes.items() if found.get(name) != shape]
        if faulty:
            name = faulty[0]
            raise ModelError(
                f"the text encoder in {self.directory} does not fit its configuration: {len(faulty)} weights "
                f"are missing or of another shape, e.g. {name}: {found.get(name, 'missing')} instead "
                f"of {shapes[name]}; download it again"
            )

    def read(
        self,
        names: Sequence[str],
        dtype: torch.dtype,
        device: torch.device | str,
        rows: Sequence[int] | None = None,
    ) -> list[torch.Tensor]:
        """Some tensors, each in its stored shape, e.g. [out, in], or only some of their rows [n, in]."""
        with Reader(device) as reader:
            if rows is not None:
                return [reader.read_rows(self._weights[name], rows, dtype) for name in names]
            return [reader.read(self._weights[name], dtype) for name in names]


@dataclass(frozen=True)
class _Place:
    """What Gemma has to know of captions of one length: the same for all of them."""

    positions: torch.Tensor
    rotary: dict[str, Any]
    masks: dict[str, Any]


class GemmaLayers:
    """Gemma's language model, of which one layer computes while the next is read."""

    def __init__(self, source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> None:
        """Check the file against the configuration; no layer is read yet.

        Raises:
            ModelError: weights are missing or of another shape, or it is not the Gemma of the version.
        """
        self.config = load_text_config(source)
        self.device, self.dtype = torch.device(device), dtype
        with torch.device("meta"):
            skeleton = text_class(source)(self.config)
        self._file = TowerFile(source)
        self._file.require({name: tuple(t.shape) for name, t in skeleton.state_dict().items()})
        self._norm = skeleton.norm.to_empty(device=self.device)
        (weight,) = self._file.read([FINAL_NORM], dtype, self.device)
        self._norm.load_state_dict({"weight": weight}, assign=True)
        self._rotary = type(skeleton.rotary_emb)(self.config, self.device)
        self._layer_class = type(skeleton.layers[0])
        # Gemma 4's layers may take keys and values of one before them, and are given where those would be.
        self._shares = "shared_kv_states" in inspect.signature(self._layer_class.forward).parameters

    @property
    def count(self) -> int:
        """Layers; there is one hidden state more, the embeddings."""
        return int(self.config.num_hidden_layers)

    @torch.no_grad()
    def states(
        self, captions: Sequence[Sequence[int]], max_tokens: int
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Number and states `[T, channels]` of the embeddings and of each layer, for every caption.

        Captions stand at the positions that left padding to `max_tokens` would give them. The last layer's
        states are those after the final norm, as the whole model gives them.
        """
        places = {length: self._place(length, max_tokens) for length in {len(c) for c in captions}}
        hidden = self._embed(captions)
        yield 0, hidden
        layers = self._layers()
        shared: list[dict[str, Any]] = [{"shared_kv_states": {}} if self._shares else {} for _ in captions]
        for number, kind in enumerate(self.config.layer_types, start=1):
            layer = next(layers)
            for index, states in enumerate(hidden):
                place = places[len(states)]
                hidden[index] = layer(
                    states[None],
                    position_embeddings=place.rotary[kind],
                    attention_mask=place.masks[kind],
                    position_ids=place.positions,
                    past_key_values=None,
                    **shared[index],
                )[0]
            del layer
            yield number, hidden if number < self.count else [self._norm(states) for states in hidden]

    def _embed(self, captions: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Only the rows of tokens that occur are read of the largest tensor of all."""
        used = sorted({token for caption in captions for token in caption})
        rows = {token: row for row, token in enumerate(used)}
        (table,) = self._file.read([EMBEDDINGS], self.dtype, self.device, used)
        scale = torch.tensor(self.config.hidden_size**0.5).to(self.dtype)
        return [table[[rows[token] for token in caption]] * scale.to(self.device) for caption in captions]

    def _place(self, length: int, max_tokens: int) -> _Place:
        from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

        positions = torch.arange(max_tokens - length, max_tokens, device=self.device)[None]
        like = torch.empty(1, length, self.config.hidden_size, dtype=self.dtype, device=self.device)
        make = {
            "full_attention": create_causal_mask,
            "sliding_attention": create_sliding_window_causal_mask,
        }
        kinds = set(self.config.layer_types)
        return _Place(
            positions=positions,
            rotary={kind: self._rotary(like, positions, kind) for kind in kinds},
            masks={
                kind: make[kind](
                    config=self.config,
                    inputs_embeds=like,
                    attention_mask=None,
                    past_key_values=None,
                    position_ids=positions,
                )
                for kind in kinds
            },
        )

    def _layers(self) -> Iterator[Any]:
        """Every layer in turn, on the device; the next is read while the caller works with one."""
        with ThreadPoolExecutor(1, "gemma-layers") as pool:
            ahead = pool.submit(self._read_layer, 0)
            for number in range(self.count):
                layer = ahead.result()
                if number + 1 < self.count:
                    ahead = pool.submit(self._read_layer, number + 1)
                yield layer
                del layer

    def _read_layer(self, number: int) -> Any:
        with torch.device("meta"):
            layer = self._layer_class(self.config, number)
        names = list(layer.state_dict())
        tensors = self._file.read([f"layers.{number}.{name}" for name in names], self.dtype, self.device)
        layer.load_state_dict(dict(zip(names, tensors, strict=True)), assign=True)
        return layer.eval().requires_grad_(False)


class LayeredProjection:
    """The feature extractor taken apart by layers; its weights wait in host memory.

    Sums are in float32, so that adding forty-nine parts rounds no more than one long product does.
    """

    def __init__(self, extractor: FeatureExtractor, layers: int, device: torch.device) -> None:
        self._device, self._per_modality = device, extractor.per_modality
        linears = extractor.projections()
        self._scales = [extractor.scale(linear) for linear in linears]
        self._biases = [linear.bias for linear in linears]
        self._dtype = linears[0].weight.dtype
        # Feature-major, layer-minor: [out, channels * layers] -> one [out, channels] a layer.
        self._weights = [
            linear.weight.unflatten(1, (extractor.channels, layers)).permute(2, 0, 1).contiguous()
            for linear in linears
        ]

    def begin(self, lengths: Sequence[int]) -> list[list[torch.Tensor]]:
        """Sums of nothing: for each caption one `[T, D]` for each projection."""
        widths = [weights.shape[1] for weights in self._weights]
        return [[torch.zeros(length, width, device=self._device) for width in widths] for length in lengths]

    def add(self, sums: list[list[torch.Tensor]], states: Sequence[torch.Tensor], layer: int) -> None:
        """Add one layer's part to the sums of every caption.

        Args:
            sums: for each caption the sums of its projections, float32 [T, D].
            states: for each caption the layer's hidden states [T, hidden].
            layer: which, from 0.
        """
        weights = [w[layer].to(self._device, torch.float32) for w in self._weights]
        for caption, hidden in zip(sums, states, strict=True):
            normed = normalise(hidden[..., None].to(self._dtype), self._per_modality)
            for total, weight, scale in zip(caption, weights, self._scales, strict=True):
                total.addmm_((normed * scale).float(), weight.T)

    def finish(self, caption: list[torch.Tensor]) -> list[torch.Tensor]:
        """The features of a caption: `[T, D]` of each projection, in the extractor's type."""
        return [
            (total if bias is None else total + bias.to(self._device, torch.float32)).to(self._dtype)
            for total, bias in zip(caption, self._biases, strict=True)
        ]


class LayeredCaptionEncoder:
    """`CaptionEncoder` in the memory of two layers: the same features, a batch of captions at a time."""

    def __init__(
        self,
        tokenizer: Any,
        gemma: GemmaLayers,
        extractor: FeatureExtractor,
        max_tokens: int,
        feature_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`extractor` is on the CPU; its weights are laid out anew by layers."""
        self._tokenizer = tokenizer
        self._gemma = gemma
        self._projection = LayeredProjection(extractor, gemma.count + 1, gemma.device)
        self._max_tokens = max_tokens
        self._feature_dtype = feature_dtype

    def count_tokens(self, caption: str) -> int:
        """Tokens that a caption takes of Gemma."""
        return min(len(caption_tokens(self._tokenizer, caption)), self._max_tokens)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[TextFeatures]:
        """The features of each caption, on the CPU. The empty caption is BOS alone."""
        if not captions:
            return []
        tokens = [caption_tokens(self._tokenizer, caption) for caption in captions]
        kept = [caption[: self._max_tokens] for caption in tokens]
        sums = self._projection.begin([len(caption) for caption in kept])
        for number, states in self._gemma.states(kept, self._max_tokens):
            self._projection.add(sums, states, number)
            logger.debug("layer %d of %d of the text encoder", number, self._gemma.count)
        return [
            self._features(self._projection.finish(total), len(caption))
            for total, caption in zip(sums, tokens, strict=True)
        ]

    def _features(self, projected: list[torch.Tensor], count: int) -> TextFeatures:
        video, *audio = (feature.to("cpu", self._feature_dtype) for feature in projected)
        return TextFeatures(
            video=video,
            audio=audio[0] if audio else None,
            truncated_from=count if count > self._max_tokens else 0,
        )
