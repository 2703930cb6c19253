"""Other orders of a caption's tags, and how often each caption is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ltxcore.config.caption_shuffle_settings import CaptionShuffle
from ltxcore.store.fingerprint import derive_seed

STAGE: Final = "probe-media"
JOINED: Final = {"comma": (",", ", "), "space": (" ", " "), "period": (".", ". ")}
"""What a caption is split at, and what its tags are joined by."""
TRIES: Final = 8
"""Draws for each order that is asked for; a caption of few tags has few orders."""


class Variants(NamedTuple):
    """The captions of a clip that are drawn from."""

    texts: tuple[str, ...]
    weights: tuple[float, ...] = ()
    """One for each text, their sum 1; empty where all are drawn alike."""


def caption_variants(
    captions: Sequence[str], shuffle: CaptionShuffle | None, weights: Sequence[float]
) -> Variants:
    """All orders of all captions. A caption's weight is shared by its orders.

    Args:
        captions: of a clip, at least one.
        shuffle: how many orders; None: each as it stands.
        weights: of the captions, in their order; one beyond the list weighs 1. Empty: all alike.
    """
    orders = [_orders(caption, shuffle) for caption in captions]
    texts = tuple(text for group in orders for text in group)
    given = [*weights, *[1.0] * len(captions)][: len(captions)]
    shares = [weight / len(group) for weight, group in zip(given, orders, strict=True) for _ in group]
    if len(set(shares)) == 1:
        return Variants(texts)
    return Variants(texts, tuple(share / sum(shares) for share in shares))


def _orders(caption: str, shuffle: CaptionShuffle | None) -> list[str]:
    """A caption's orders, each once: as it stands first, if it is one of them."""
    if shuffle is None or not shuffle.enable:
        return [caption]
    separator, joint = JOINED[shuffle.split_on]
    tags = [tag.strip() for tag in caption.split(separator) if tag.strip()]
    kept, moved = tags[: shuffle.position_start], tags[shuffle.position_start :]
    end = separator if shuffle.split_on == "period" and caption.rstrip().endswith(separator) else ""
    found: dict[str, None] = {}
    for number in range(TRIES * shuffle.count):
        places = [derive_seed(shuffle.seed, STAGE, caption, number, place) for place in range(len(moved))]
        order = [tag for _, tag in sorted(zip(places, moved, strict=True))]
        if order != moved:
            found[joint.join([*kept, *order]) + end] = None
        if len(found) == shuffle.count:
            break
    others = list(found)
    return [caption, *others] if shuffle.include_original or not others else others
