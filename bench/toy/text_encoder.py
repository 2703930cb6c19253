"""The toy's Gemma 3, random and frozen, and its tokenizer: a token a known word, or a byte of any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.toy.sizes import GEMMA_LAYERS, MAX_TOKENS, TEXT_WIDTH
from ltxcore.store.fingerprint import derive_seed

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
_KNOWN = """
a an the and with while of to in on over from by at into as it its is are no not
red yellow green blue white black grey orange purple pink cyan teal brown silver gold dark pale light bright
circle disc ball square box triangle shape dot ring star line
moves move moving goes glides slides drifts rises falls climbs sinks runs comes flies stays turns circles
right left up down upwards downwards top bottom side middle centre edge across through
low high deep tone tones sound sounds sounding note hum heard silence silent quiet loud pitch
background picture video clip scene small large big slow fast slowly quickly one two three once
"""
WORDS = tuple(_KNOWN.split())
"""Words that are one token. What the toy was not trained on tells it nothing, as with any model."""


def write_text_encoder(directory: Path) -> None:
    """Write `text_encoder` and `tokenizer` into a directory. The same call gives the same bytes."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    tokenizer = _tokenizer()
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=GEMMA_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=TEXT_WIDTH // 4,
        query_pre_attn_scalar=TEXT_WIDTH // 4,
        sliding_window=1024,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        max_position_embeddings=4096,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "toy", "text encoder"))
        model = Gemma3TextModel(config)
    model.to(torch.bfloat16).save_pretrained(directory / "text_encoder", safe_serialization=True)
    tokenizer.save_pretrained(directory / "tokenizer")


def _tokenizer() -> Any:
    """Gemma's special tokens at Gemma's ids, BOS in front, padding on the left; letter case is dropped."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    # A space before a word is part of it, written Ġ.
    pieces = (*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġ{word}" for word in WORDS))
    tokenizer = Tokenizer(
        BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[],
            unk_token=SPECIALS[3],
            ignore_merges=True,
        )
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", pieces.index("<bos>"))]
    )
    roles = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", model_max_length=MAX_TOKENS, **roles
    )
