"""How many clips a step takes: one number, one for each bucket, or as many as fit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ltxcore.config.bucket_list import is_bucket_name

AUTO = "auto"


def _number(value: Any) -> Any:
    """`"4"`, as a config.json may have it, is 4."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _checked(value: Any) -> Any:
    """One error for all three forms.

    Raises:
        ValueError: says what was found and which forms there are.
    """
    value = {k: _number(v) for k, v in value.items()} if isinstance(value, dict) else _number(value)
    given = value if isinstance(value, dict) else {"": value}
    buckets = all(isinstance(name, str) and is_bucket_name(name) for name in given if name)
    numbers = [number for number in given.values() if number != AUTO or isinstance(value, dict)]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not given or not buckets or not whole:
        raise ValueError(
            f"found {value!r}; write a number above 0, `auto`, or a number for each bucket as "
            "`{WIDTHxHEIGHT@FRAMES: number}`, such as {512x512@49: 4}"
        )
    return value


BatchSize = Annotated[int | Literal["auto"] | dict[str, int], BeforeValidator(_checked)]


class UndecidedBatchSize(ValueError):
    """A batch size that does not say how many clips of a bucket go into a step."""


def clips_of(size: BatchSize, bucket: str) -> int:
    """Clips of a bucket in one step.

    Raises:
        UndecidedBatchSize: the bucket is not named, or the planner has not decided yet.
    """
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        raise UndecidedBatchSize("train_batch_size: auto has not been settled by the planner")
    if bucket not in size:
        raise UndecidedBatchSize(
            f"train_batch_size names {', '.join(size)}, but the data have a bucket {bucket} too; name it, or "
            "write one number for all"
        )
    return size[bucket]
