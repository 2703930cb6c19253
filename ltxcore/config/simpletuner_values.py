"""Values of SimpleTuner's keys in this project's terms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ltxcore.config.simpletuner import Converted, Unfit

SPATIAL, TEMPORAL = 32, 8
PROMPT_NAME = "prompt"
USUAL_GUIDANCE = (2.0, 6.0)


def legal_frames(value: Any, base: Path) -> Converted:
    """A number of frames, rounded down to 8n+1."""
    asked = _whole(value)
    legal = max(0, asked - 1) // TEMPORAL * TEMPORAL + 1
    if legal == asked:
        return Converted(asked)
    return Converted(legal, f"{asked} -> {legal}: LTX-2 takes 8n+1 frames", rounded=True)


def kept_frames(value: Any, base: Path) -> Converted:
    """A dataset's number of frames: kept, since min_frames follows it; the pipeline rounds it."""
    found = legal_frames(value, base)
    return Converted(_whole(value), found.note and f"used as {found.value}: {found.note}", found.rounded)


def resolution(value: Any, base: Path) -> Converted:
    """`WxH` in multiples of 32; one number is a square."""
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+", text):
        text = f"{text}x{text}"
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise Unfit(f"found {value!r}; write one size in pixels as WIDTHxHEIGHT, e.g. 768x512")
    asked = (int(match[1]), int(match[2]))
    if min(asked) < SPATIAL:
        raise Unfit(f"{text} has an edge below {SPATIAL} pixels; write e.g. 768x512")
    legal = "x".join(str(edge - edge % SPATIAL) for edge in asked)
    if legal == text:
        return Converted(legal)
    return Converted(legal, f"{text} -> {legal}: edges are multiples of {SPATIAL}", rounded=True)


def guidance(value: Any, base: Path) -> Converted:
    """The number as it is, with a word where it is unusual."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Unfit(f"found {value!r}; write a number, e.g. 5.0") from None
    low, high = USUAL_GUIDANCE
    if number == 1 or low <= number <= high:
        return Converted(number)
    return Converted(number, f"outside {low:g}-{high:g}, pictures often turn black or noisy")


def by_layers(value: Any, base: Path) -> Converted:
    """Gemma's weights outside the device's memory: here two layers of it are in memory at a time."""
    flag(value, base)
    return Converted("layer_by_layer", "two layers of Gemma in memory at a time")


def modules(value: Any, base: Path) -> Converted:
    """A list of module names, also as the text of a JSON list."""
    names = value
    if isinstance(value, str):
        try:
            names = json.loads(value)
        except ValueError:
            names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Unfit(f'found {value!r}; write a JSON list of module names, e.g. ["to_q", "to_v"]')
    return Converted(names)


def one_prompt(value: Any, base: Path) -> Converted:
    """A prompt, letter for letter, under a short name of its own."""
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write a text")
    return Converted({PROMPT_NAME: value}, f"as the prompt `{PROMPT_NAME}`")


def prompt_library(value: Any, base: Path) -> Converted:
    """A JSON file of short name -> prompt, relative to the file that names it."""
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write the path of a JSON file that holds short names and prompts")
    path = base / Path(value).expanduser()
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unfit(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise Unfit(f'{path} must hold short names and prompts: {{"name": "prompt", …}}')
    named: dict[str, str] = {}
    changed = []
    for name, text in prompts.items():
        slug = re.sub(r"[^\w-]+", "-", name).strip("-") or PROMPT_NAME
        if slug in named:
            raise Unfit(f"two prompts of {path} have the short name {slug!r}; rename {name!r}")
        named[slug] = text
        changed += [f"{name!r} is called {slug!r}"] if slug != name else []
    return Converted(named, "; ".join([f"{len(named)} prompts of {path.name}", *changed]))


def channels(value: Any, base: Path) -> Converted:
    """1 and 2 are both taken."""
    if value != 1:
        return Converted(value)
    return Converted(value, "the audio VAE gets stereo always: mono is duplicated")


def flag(value: Any, base: Path) -> Converted:
    if not isinstance(value, bool):
        raise Unfit(f"found {value!r}; write true or false")
    return Converted(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < 1:
        raise Unfit(f"found {value!r}; write a whole number above 0")
    return int(value)
