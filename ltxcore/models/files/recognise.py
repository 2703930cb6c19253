"""Which version a model on disk is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltxcore.models.errors import ModelError
from ltxcore.models.version import Version, marks_of
from ltxcore.models.versions import COMPONENTS, VERSIONS


def recognise(root: Path) -> Version:
    """The version of a model in the diffusers layout, from its components' own configurations.

    Raises:
        ModelError: no model in that layout, not an LTX-2, or a version that is not known.
    """
    index = read_json(root / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if not pipeline.startswith("LTX2"):
        raise ModelError(
            f"{root} holds a {pipeline}, not an LTX-2, whose model_index.json names LTX2Pipeline; "
            "give a directory of LTX-2"
        )
    version = by_marks(marks_of(read_json(root / "transformer" / "config.json")), root)
    connectors = read_json(root / "connectors" / "config.json")
    per_modality = bool(connectors.get("per_modality_projections"))
    if per_modality != version.per_modality:
        raise ModelError(
            f"{root} mixes versions: its transformer is that of LTX-{version.name}, but the connectors' "
            f"per_modality_projections is {per_modality}, which is {version.per_modality} there. Take both "
            "components from one version"
        )
    return version


def by_marks(marks: Mapping[str, bool], where: Path) -> Version:
    """The version with these values of the keys that distinguish versions.

    Raises:
        ModelError: none has.
    """
    for version in VERSIONS.values():
        if version.marks == marks:
            return version
    known = "; ".join(f"{shown_marks(version.marks)} ({version.name})" for version in VERSIONS.values())
    raise ModelError(
        f"{where} is an LTX-2 of a version that is not known here: {shown_marks(marks)}. Known are {known}"
    )


def shown_marks(marks: Mapping[str, bool]) -> str:
    """Marks in words."""
    return ", ".join(f"{name} {str(value).lower()}" for name, value in marks.items())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model directory.

    Raises:
        ModelError: the file is missing, does not parse, or holds no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path} does not exist; a model directory in the diffusers layout holds model_index.json and "
            f"a folder for each of {', '.join(COMPONENTS)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy or download the model again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds a {type(data).__name__}, not an object; download the model again")
    return data
