"""A Gemma 3 tokenizer from the sentencepiece model that ComfyUI's text encoder files carry.

The pieces are a vocabulary of byte pairs: of two that could come about, the one with the lower number does.
Pieces of the kinds "control" and "user defined" are taken whole, wherever they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ltxcore.models.errors import ModelError

_PIECES, _TEXT, _KIND = 1, 1, 3
"""Numbers of the fields in sentencepiece's ModelProto and in its pieces."""
_NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1, 3, 4, 6
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
SPECIALS: Final[Mapping[str, str]] = {
    "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"
}  # fmt: skip
SPACE: Final = "▁"
"""What stands for a space in a piece."""


def tokenizer_files(model: bytes, where: str) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json of a sentencepiece model of Gemma's.

    Args:
        model: a serialised ModelProto.
        where: it comes from, for the error.

    Raises:
        ModelError: it does not parse, or has not Gemma's special tokens in their places.
    """
    try:
        pieces = list(_pieces(model))
    except (ValueError, IndexError) as error:
        raise ModelError(f"the tokenizer in {where} does not parse ({error}); download it again") from error
    if [text for text, _ in pieces[: len(SPECIALS)]] != list(SPECIALS.values()):
        begins = ", ".join(text for text, _ in pieces[: len(SPECIALS)])
        raise ModelError(f"the tokenizer in {where} is none of Gemma's: it begins with {begins or 'nothing'}")
    return {
        "tokenizer.json": json.dumps(_tokenizer(pieces), ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **SPECIALS}
        ).encode(),
    }


def _tokenizer(pieces: list[tuple[str, int]]) -> dict[str, Any]:
    """In the form of the library `tokenizers`."""
    numbers = {text: number for number, (text, _) in enumerate(pieces)}
    whole = [
        {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL or text in SPECIALS.values(),
        }
        for number, (text, kind) in enumerate(pieces)
        if kind in (_CONTROL, _USER_DEFINED) or text in SPECIALS.values()
    ]
    bos = SPECIALS["bos_token"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": whole,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [numbers[bos]], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIALS["unk_token"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": numbers,
            "merges": list(_merges(pieces, numbers)),
        },
    }


def _merges(pieces: list[tuple[str, int]], numbers: Mapping[str, int]) -> Iterator[list[str]]:
    """Which two pieces become which, in the order of the pieces that come of it; as transformers has it.

    Runs of spaces are user defined. Text has spaces where pieces have another sign, so it is by joining that
    they come about.
    """
    for text, kind in pieces:
        if kind in (_NORMAL, _USER_DEFINED):
            pairs = ((text[:at], text[at:]) for at in range(1, len(text)))
            yield from ([left, right] for left, right in pairs if left in numbers and right in numbers)


def _pieces(model: bytes) -> Iterator[tuple[str, int]]:
    """Text and kind of each piece."""
    for number, content in _fields(model):
        if number == _PIECES and isinstance(content, bytes):
            piece = dict(_fields(content))
            text, kind = piece.get(_TEXT, b""), piece.get(_KIND, _NORMAL)
            if not isinstance(text, bytes) or not isinstance(kind, int):
                raise ValueError("a piece without its text")
            yield text.decode(), kind


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a protocol buffer; of fixed widths the bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(message):
            raise ValueError("it is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if not byte & 128:
            return value, at
