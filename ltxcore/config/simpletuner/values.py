"""Values of SimpleTuner's keys in this project's terms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.simpletuner.translation import Converted, Converter, Unfit
from ltxcore.config.standard_prompts import STANDARD_PROMPTS

PROMPT_NAME = "prompt"
USUAL_GUIDANCE = (2.0, 6.0)
LEVELS_ABOVE = 2
"""A config.json lies in `config/` or deeper and names files from the project's root."""


def renamed(to: str) -> Converter:
    """A converter from other names of values to this project's."""
    return lambda value, base: Converted(to, f"{value} -> {to}", rounded=True)


def find_file(name: str, base: Path) -> Path | None:
    """A file that a config.json names: as seen from beside it, from the folders above, or from here."""
    named = Path(name).expanduser()
    places = (base, *base.resolve().parents[:LEVELS_ABOVE], Path.cwd())
    return next((place / named for place in places if (place / named).is_file()), None)


def named_file(value: Any, base: Path) -> Converted:
    """A file, by its whole path.

    Raises:
        Unfit: it is no text, or there is no such file.
    """
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write the path of a file")
    return Converted(str(_found(value, base).resolve()))


def _found(name: str, base: Path) -> Path:
    path = find_file(name, base)
    if path is None:
        raise Unfit(
            f"there is no file {name}, neither beside the file that names it ({base.resolve()}) nor in the "
            f"{LEVELS_ABOVE} folders above it nor in the working directory {Path.cwd()}"
        )
    return path


def legal_frames(value: Any, base: Path) -> Converted:
    """A number of frames, rounded down to 8n+1."""
    asked = _whole(value)
    legal = GEOMETRY.legal_frames(asked)
    if legal == asked:
        return Converted(asked)
    return Converted(legal, f"{asked} -> {legal}: LTX-2 takes 8n+1 frames", rounded=True)


def kept_frames(value: Any, base: Path) -> Converted:
    """A dataset's number of frames: kept, since min_frames follows it; the pipeline rounds it."""
    found = legal_frames(value, base)
    return Converted(_whole(value), found.note and f"used as {found.value}: {found.note}", found.rounded)


def resolution(value: Any, base: Path) -> Converted:
    """`WxH` in multiples of 32; one number is a square; several sizes are separated by commas.

    Raises:
        Unfit: it is no size, or an edge is below 32 pixels.
    """
    sizes = value if isinstance(value, list) else str(value).split(",")
    sizes = [str(size).strip().lower() for size in sizes if str(size).strip()]
    if len(sizes) > 1:
        found = [resolution(size, base) for size in sizes]
        every = dict.fromkeys(str(one.value) for one in found)
        notes = [one.note for one in found if one.note]
        return Converted(",".join(every), "; ".join(notes), rounded=any(one.rounded for one in found))
    text = sizes[0] if sizes else ""
    if re.fullmatch(r"\d+", text):
        text = f"{text}x{text}"
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise Unfit(f"found {value!r}; write one size in pixels as WIDTHxHEIGHT, e.g. 768x512")
    asked = (int(match[1]), int(match[2]))
    if min(asked) < GEOMETRY.spatial_factor:
        raise Unfit(f"{text} has an edge below {GEOMETRY.spatial_factor} pixels; write e.g. 768x512")
    legal = "x".join(str(GEOMETRY.legal_edge(edge)) for edge in asked)
    if legal == text:
        return Converted(legal)
    return Converted(
        legal, f"{text} -> {legal}: edges are multiples of {GEOMETRY.spatial_factor}", rounded=True
    )


def guidance(value: Any, base: Path) -> Converted:
    """The number as it is, with a note where it is unusual.

    Raises:
        Unfit: it is no number.
    """
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


def _read_json(value: Any) -> Any:
    """A value that may also be given as the text of its JSON; None where a text is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def modules(value: Any, base: Path) -> Converted:
    """A list of module names, also as the text of a JSON list.

    Raises:
        Unfit: it is no such list.
    """
    names = _read_json(value)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise Unfit(f'found {value!r}; write a JSON list of module names, e.g. ["to_q", "to_v"]')
    return Converted(names)


def lycoris_config(value: Any, base: Path) -> Converted:
    """LyCORIS' own keys: an object, or the JSON file of one, beside the file that names it or above.

    Raises:
        Unfit: it is neither, or the file cannot be read.
    """
    if isinstance(value, dict):
        return Converted(value)
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write an object of LyCORIS' keys, or the path of its JSON file")
    path = _found(value, base)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unfit(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise Unfit(f'{path} must hold an object: {{"algo": "lokr", "linear_dim": 16, …}}')
    return Converted(found, f"the keys of {path.name}")


def routes(value: Any, base: Path) -> Converted:
    """The routes of a tread_config, also as the text of a JSON object.

    Raises:
        Unfit: it is no such object.
    """
    config = _read_json(value)
    if not isinstance(config, dict) or set(config) != {"routes"} or not isinstance(config["routes"], list):
        raise Unfit(
            f'found {value!r}; write {{"routes": [{{"selection_ratio": 0.5, "start_layer_idx": 2, '
            '"end_layer_idx": -2}]}'
        )
    return Converted(config["routes"])


def one_prompt(value: Any, base: Path) -> Converted:
    """A prompt, letter for letter, under a short name.

    Raises:
        Unfit: it is no text.
    """
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write a text")
    return Converted({PROMPT_NAME: value}, f"as the prompt `{PROMPT_NAME}`")


def prompt_library(value: Any, base: Path) -> Converted:
    """A JSON file of short name -> prompt; true stands for this project's own prompts.

    Raises:
        Unfit: it is neither, the file cannot be read, or two prompts have one short name.
    """
    if value is True:
        return Converted(dict(STANDARD_PROMPTS), f"{len(STANDARD_PROMPTS)} prompts of this project's own")
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write the path of a JSON file that holds short names and prompts")
    path = _found(value, base)
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


def adapter_file(value: Any, base: Path) -> Converted:
    """A LoRA file relative to the file that names it, or `repo_id:weight_name`.

    Raises:
        Unfit: it is no text.
    """
    if not isinstance(value, str):
        raise Unfit(f"found {value!r}; write a .safetensors file or repo_id:weight_name")
    beside = find_file(value, base)
    return Converted(value if beside is None else str(beside.resolve()))


def adapter_runs(value: Any, base: Path) -> Converted:
    """A list of labelled LoRAs, also as the text of such a list or a JSON file that holds it.

    Raises:
        Unfit: it is no such list.
    """
    runs = value
    if isinstance(value, str):
        runs = _adapter_list(value, base)
    if isinstance(runs, dict):
        # A file that repeats the key around its list, as the documentation prints it.
        runs = runs.get("validation_adapter_config")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise Unfit(f'found {value!r}; write a list such as [{{"label": "canny", "path": "repo_id:name"}}]')
    return Converted([_with_files(run, base) for run in runs])


def _adapter_list(value: str, base: Path) -> Any:
    try:
        return json.loads(_found(value, base).read_text("utf-8") if value.endswith(".json") else value)
    except (OSError, ValueError) as error:
        raise Unfit(f"{value} cannot be read as JSON: {error}") from None


def _with_files(run: dict[str, Any], base: Path) -> dict[str, Any]:
    found = dict(run)
    if "path" in run:
        found["path"] = adapter_file(run["path"], base).value
    if isinstance(run.get("adapters"), list):
        found["adapters"] = [
            _with_files(a, base) if isinstance(a, dict) else adapter_file(a, base).value
            for a in run["adapters"]
        ]
    return found


def channels(value: Any, base: Path) -> Converted:
    """1 and 2 are both accepted."""
    if value != 1:
        return Converted(value)
    return Converted(value, "the audio VAE gets stereo always: mono is duplicated")


def as_reference(value: Any, base: Path) -> Converted:
    """reference_strict is the only kind of reference here."""
    note = "" if value == "reference" else f"{value} is a reference that shows the clip's own picture"
    return Converted("reference", note)


def only_the_prompt(value: Any, base: Path) -> Converted:
    """A dataset whose only caption is its instance_prompt."""
    flag(value, base)
    return Converted("instanceprompt", "instanceprompt, whatever caption_strategy says")


def flag(value: Any, base: Path) -> Converted:
    """true or false.

    Raises:
        Unfit: it is neither.
    """
    if not isinstance(value, bool):
        raise Unfit(f"found {value!r}; write true or false")
    return Converted(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < 1:
        raise Unfit(f"found {value!r}; write a whole number above 0")
    return int(value)
