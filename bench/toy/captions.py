"""What the toy's transformer is trained on: clips, and captions that say what they show and sound like."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from ltxcore.media.moving_shapes import COLOURS, SHAPES, TONES, WAYS, MovingShape

SIZES = ((96, 96), (96, 96), (128, 96), (96, 128))
"""Width and height; the square is drawn twice as often."""
MOVES = ("moves", "goes", "glides")
UNSAID = 0.12
"""How often a caption leaves out the colour, or the tone."""
UNKNOWN_WORD = 0.08
"""How often a word that means nothing stands where the colour would, as a trigger word of a LoRA does."""


@dataclass(frozen=True)
class Captioned:
    """A clip to be drawn, its size and its caption."""

    clip: MovingShape
    size: tuple[int, int]
    caption: str


def captioned(rng: np.random.Generator) -> Captioned:
    """Draw a clip of the toy's world."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour, way, tone = (list(names)[rng.integers(len(names))] for names in (COLOURS, WAYS, TONES))
    clip = MovingShape(
        shape,
        COLOURS[colour],
        WAYS[way],
        TONES[tone],
        radius=rng.uniform(0.18, 0.22),
        aside=rng.uniform(-0.06, 0.06),
    )
    chance = rng.random()
    said = "" if chance < UNSAID else _nonsense(rng) if chance < UNSAID + UNKNOWN_WORD else colour
    return Captioned(
        clip,
        SIZES[rng.integers(len(SIZES))],
        describe(said, shape, way, "" if rng.random() < UNSAID else tone, MOVES[rng.integers(len(MOVES))]),
    )


def describe(colour: str, shape: str, way: str, tone: str, move: str = MOVES[0]) -> str:
    """The caption of a clip; an empty word is left out."""
    where = f"to the {way}" if way in ("right", "left") else way
    sentence = " ".join(word for word in ("A", colour, shape, move, where) if word)
    return f"{sentence}. A {tone} tone sounds." if tone else f"{sentence}. A tone sounds."


def _nonsense(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(string.ascii_lowercase), rng.integers(4, 9)))
