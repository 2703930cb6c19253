"""The tiny model's Gemma, of the kind that its version reads, and its tokenizer."""

from __future__ import annotations

from typing import Any, Final

import torch

from ltxcore.models.version import TextEncoder

MAX_TOKENS: Final = 128
GEMMA_LAYERS: Final = 3
_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
_IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_FIRST_IMAGE_TOKEN = len(_SPECIALS) + 256


def text_encoder(kind: TextEncoder, width: int) -> torch.nn.Module:
    """A Gemma with random weights, `width` wide, with one layer of full attention after two of sliding."""
    build = {"Gemma3TextModel": _gemma_3, "Gemma4UnifiedTextModel": _gemma_4}[kind.model_class]
    return build(kind, width)


def _text_sizes(width: int) -> dict[str, Any]:
    return {
        "vocab_size": _FIRST_IMAGE_TOKEN + len(_IMAGE_TOKENS) + 1,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": GEMMA_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "max_position_embeddings": 4096,
    }


def _gemma_3(kind: TextEncoder, width: int) -> torch.nn.Module:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**_text_sizes(width), query_pre_attn_scalar=width // 4),
        vision_config=vision,
        boi_token_index=_FIRST_IMAGE_TOKEN,
        eoi_token_index=_FIRST_IMAGE_TOKEN + 1,
        image_token_index=_FIRST_IMAGE_TOKEN + 2,
        mm_tokens_per_image=4,
    )
    return Gemma3ForConditionalGeneration(config)


def _gemma_4(kind: TextEncoder, width: int) -> torch.nn.Module:
    """As the released one: heads of two sizes, keys that are values in full attention, scaled layers."""
    from transformers import (
        Gemma4UnifiedConfig,
        Gemma4UnifiedForConditionalGeneration,
        Gemma4UnifiedTextConfig,
        Gemma4UnifiedVisionConfig,
    )

    text = Gemma4UnifiedTextConfig(
        **_text_sizes(width),
        global_head_dim=width // 2,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
    )
    vision = Gemma4UnifiedVisionConfig(
        patch_size=2, pooling_kernel_size=2, mm_embed_dim=width, mm_posemb_size=8, output_proj_dims=width
    )
    config = Gemma4UnifiedConfig(
        text_config=text,
        vision_config=vision,
        boi_token_id=_FIRST_IMAGE_TOKEN,
        eoi_token_id=_FIRST_IMAGE_TOKEN + 1,
        image_token_id=_FIRST_IMAGE_TOKEN + 2,
        gemma_version=kind.tuned,
    )
    model = Gemma4UnifiedForConditionalGeneration(config)
    for layer in model.model.language_model.layers:
        # The class's ones would hide a scale that is left out.
        layer.layer_scalar.uniform_(0.5, 1.0)
    return model


def tokenizer(adds_bos: bool) -> Any:
    """One token a byte, with Gemma's special tokens at Gemma's ids, and padding on the left."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    pieces = (*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *_IMAGE_TOKENS)
    made = Tokenizer(
        BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], unk_token=_SPECIALS[3])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", pieces.index("<bos>"))]
        )
    roles = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), _SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side="left", model_max_length=MAX_TOKENS, **roles
    )
