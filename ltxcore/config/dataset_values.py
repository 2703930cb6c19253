"""Values of dataset keys that are converted, or refused with advice, beyond their type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ltxcore.config.geometry import AUDIO_SAMPLE_RATE


def local(value: Any) -> Any:
    """Refuse data that is not on this machine."""
    if isinstance(value, str) and value != "local":
        raise ValueError(
            f"{value!r} is not read here; copy or mount the data, write its directory as "
            "`instance_data_dir` and `type: local`"
        )
    return value


def number(value: Any) -> Any:
    """`"2"` as 2: JSON files sometimes have numbers as text."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def vae_rate(value: Any) -> Any:
    """Refuse every sample rate except the audio VAE's."""
    if number(value) != AUDIO_SAMPLE_RATE:
        raise ValueError(
            f"is {value}, but the audio VAE takes {AUDIO_SAMPLE_RATE} only; write {AUDIO_SAMPLE_RATE}: "
            "sound of any rate is resampled to it"
        )
    return AUDIO_SAMPLE_RATE


def one_or_many(value: Any) -> Any:
    """One text as the list of it."""
    return [value] if isinstance(value, str) else value


def auto_or_off(value: Any) -> Any:
    """`off` and `on` as YAML gives them: as false and true."""
    return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value


Local = Annotated[Literal["local"], BeforeValidator(local)]
