"""A recipe file as plain data, with the recipes that it extends: `extends: [character, 24gb]`.

A recipe that extends others says only what differs from them. Presets, one a card and one a goal, lie in
`presets`; a path names a recipe of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ltxcore.config.base import KeyPath, read_document
from ltxcore.config.errors import ConfigError, Problem, nearest
from ltxcore.config.simpletuner.training import is_flat, translate_config

EXTENDS: Final = "extends"
PRESETS: Final = Path(__file__).parent / "presets"
ENDINGS: Final = (".yaml", ".yml", ".json")


class RecipeDocument(NamedTuple):
    """A recipe file as plain data."""

    data: Any
    """Its keys, over those of the recipes that it extends."""
    lines: dict[KeyPath, int]
    """Of the keys that stand in the file itself."""
    extended: tuple[Path, ...] = ()
    """The recipes that it names, in its order."""


def presets() -> dict[str, Path]:
    """Name -> file of every preset, cards first."""
    return {
        file.stem: file for kind in ("cards", "goals") for file in sorted((PRESETS / kind).glob("*.yaml"))
    }


def read_recipe_document(
    path: Path, sections: Mapping[str, Any], above: tuple[Path, ...] = ()
) -> RecipeDocument:
    """Read a recipe file, and below its own keys those of the recipes that it extends.

    Of several extended recipes a later one wins, and the file itself wins over all. A key of a section is
    taken whole: prompts, conditions and lists are replaced, never joined.

    Args:
        sections: the sections of a recipe by name; a file with other keys is one of SimpleTuner's.
        above: the recipes that extend this one.

    Raises:
        ConfigError: a file is missing or does not parse, extends itself, or names an unknown preset.
    """
    data, lines = read_document(path)
    if not isinstance(data, dict):
        return RecipeDocument(data, lines)
    chain = (*above, path.resolve())
    extended = _extended(data.pop(EXTENDS, None), path, lines.get((EXTENDS,)), chain)
    if is_flat(data, sections):
        translation = translate_config(data, path, lines)
        translation.check()
        translation.log()
        data, lines = translation.data, translation.places
    return RecipeDocument(_over(merged(extended, sections, chain), data), lines, tuple(extended))


def merged(
    files: Iterable[Path], sections: Mapping[str, Any], above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The keys of several recipes together, a later one over those before it; as `read_recipe_document`."""
    together: dict[str, Any] = {}
    for file in files:
        together = _over(together, read_recipe_document(file, sections, above).data or {})
    return together


def _extended(named: Any, path: Path, line: int | None, chain: tuple[Path, ...]) -> list[Path]:
    if named is None:
        return []
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        message = f"is {named!r}; write the name of a preset, the path of a recipe, or a list of these"
        raise ConfigError(str(path), [Problem(EXTENDS, message, line)])
    files = [_file(name, path, line) for name in names]
    for file in files:
        if file.resolve() in chain:
            message = f"comes back to {file}, which would extend itself"
            raise ConfigError(str(path), [Problem(EXTENDS, message, line)])
    return files


def _file(name: str, path: Path, line: int | None) -> Path:
    if name.endswith(ENDINGS):
        file = path.parent / Path(name).expanduser()
        if not file.is_file():
            message = f"names {name}, and there is no file {file}; paths count from the recipe's own folder"
            raise ConfigError(str(path), [Problem(EXTENDS, message, line)])
        return file
    known = presets()
    if name not in known:
        message = f"names no preset: {name!r} (the path of a recipe ends in .yaml); {nearest(name, known)}"
        raise ConfigError(str(path), [Problem(EXTENDS, message, line)])
    return known[name]


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `own` replaced, section by section."""
    merged = dict(base)
    for name, section in own.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(section, dict):
            merged[name] = {**below, **section}
        elif section is not None or name not in merged:
            merged[name] = section
    return merged
