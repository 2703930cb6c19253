"""Whether a text encoder is the one that a version of LTX-2 was trained with. Its configuration says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltxcore.models.errors import ModelError
from ltxcore.models.version import Version

TUNED_KEY = "gemma_version"
SOURCE_KEY = "gemma_source_checkpoint"


def require_text_encoder(
    version: Version, config: Mapping[str, Any], where: Path, tuned: str | None, own: bool
) -> None:
    """Refuse a text encoder whose states mean something else to the model, which no shape would show.

    Args:
        version: of the model.
        config: of the text encoder.
        where: it lies.
        tuned: `gemma_version` of the tuning that the transformer was trained with, if any.
        own: whether it came with the model, so that it need not say which tuning it has.

    Raises:
        ModelError: another Gemma, or one without that tuning.
    """
    wanted, kind, found = version.text_encoder, config.get("model_type"), tuning_of(config)
    remedy = f"give {wanted.name}, such as that of {wanted.source}"
    if kind not in wanted.model_types:
        raise ModelError(
            f"the text encoder in {where} is a {kind}, but LTX-{version.name} reads {wanted.name} "
            f"({wanted.model_types[0]}); {remedy}"
        )
    if tuned is None or found == tuned or (found is None and own):
        return
    if found is not None:
        raise ModelError(
            f"the text encoder in {where} has the tuning {found}, but the transformer was trained with "
            f"{tuned}; {remedy}"
        )
    raise ModelError(
        f"the text encoder in {where} is a {kind} without a {TUNED_KEY}, as Google publishes it. "
        f"LTX-{version.name} was trained with {tuned}, and any other gives noise without an error; {remedy}"
    )


def tuning_of(config: Mapping[str, Any]) -> str | None:
    """`gemma_version` of a text encoder's configuration."""
    found = config.get(TUNED_KEY) or config.get("text_config", {}).get(TUNED_KEY)
    return None if found is None else str(found)


def tuning_wanted(version: Version, metadata: Mapping[str, str]) -> str | None:
    """The tuning that a transformer was trained with, from its file's metadata, or else from its version."""
    if version.text_encoder.tuned is None:
        return None
    try:
        said = json.loads(metadata.get(SOURCE_KEY, "{}"))
    except ValueError:
        said = {}
    return str(said.get(TUNED_KEY, version.text_encoder.tuned)) if isinstance(said, dict) else None
