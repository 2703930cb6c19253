"""Values of dataset keys that are read more kindly, or refused with more advice, than their type alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

SAMPLE_RATE = 16000


def local(value: Any) -> Any:
    """Refuse data that lies elsewhere."""
    if isinstance(value, str) and value != "local":
        raise ValueError(
            f"{value!r} is not read here; copy or mount the data, write its directory as "
            "`instance_data_dir` and `type: local`"
        )
    return value


def number(value: Any) -> Any:
    """`"2"` as 2: JSON files hold numbers as texts now and then."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def vae_rate(value: Any) -> Any:
    """Refuse every rate but the audio VAE's."""
    if number(value) != SAMPLE_RATE:
        raise ValueError(
            f"is {value}, but the audio VAE takes {SAMPLE_RATE} only; write {SAMPLE_RATE}: sound of any rate "
            "is resampled to it"
        )
    return SAMPLE_RATE


def one_or_many(value: Any) -> Any:
    """One text as the list of it."""
    return [value] if isinstance(value, str) else value


Local = Annotated[Literal["local"], BeforeValidator(local)]
