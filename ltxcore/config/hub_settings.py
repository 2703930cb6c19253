"""Whether and where a finished run's LoRA is published on the Hugging Face hub."""

from __future__ import annotations

import re
from typing import Final

from pydantic import Field, field_validator, model_validator

from ltxcore.config.base import Strict

# The hub's own rules for the name of an owner and of a repository.
PART: Final = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
REFUSED: Final = ("--", "..")


class HubSettings(Strict):
    """Publishing the LoRA. The token is not part of a recipe; it comes from the environment."""

    push_to_hub: bool = Field(
        False, description="Upload the LoRA, its samples and a model card at the end of a run."
    )
    hub_model_id: str | None = Field(
        None, description="The repository: `owner/name`, or `name` for one of the token's owner."
    )
    hub_private: bool = Field(
        True, description="Whether the repository is private. Publishing cannot be undone."
    )

    @field_validator("hub_model_id")
    @classmethod
    def _repository(cls, name: str | None) -> str | None:
        if name is None:
            return None
        parts = name.split("/")
        legal = all(PART.fullmatch(part) for part in parts) and not any(bad in name for bad in REFUSED)
        if len(parts) > 2 or not legal or name.endswith(".git"):
            raise ValueError(
                f"found {name!r}; write `name` or `owner/name` of letters, digits, `-`, `_` and single `.`, "
                "at most 96 each, e.g. my-name/my-lora"
            )
        return name

    @model_validator(mode="after")
    def _somewhere(self) -> HubSettings:
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError(
                "push_to_hub is true, but it is not said where to; write e.g. hub_model_id: my-name/my-lora, "
                "or hub_model_id: my-lora for a repository of the token's owner"
            )
        return self
