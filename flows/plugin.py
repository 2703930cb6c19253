"""Prefect's plugin hook that makes `prefect deployment run train-ltx2` work with the bare name.

Prefect wants FLOW/DEPLOYMENT. Every deployment here is named as its flow is, so NAME can only mean NAME/NAME.
Prefect runs the hook when it is imported, before its command line reads `sys.argv`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from prefect.plugins import register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"


def expand(argv: Sequence[str]) -> list[str]:
    """The command line with NAME written as NAME/NAME after `deployment run` and `deployment inspect`."""
    out = list(argv)
    if (
        len(out) > 3
        and _is_prefect(out[0])
        and out[1] == "deployment"
        and out[2] in ("run", "inspect")
        and not out[3].startswith("-")
        and "/" not in out[3]
    ):
        out[3] = f"{out[3]}/{out[3]}"
    return out


def _is_prefect(program: str) -> bool:
    return PurePath(program).name in ("prefect", "prefect.exe")


def program_of(argv: Sequence[str], original: Sequence[str]) -> str:
    """The program that runs: argv[0], or the module's name while `python -m MODULE` is still importing it."""
    if argv[0] == "-m" and "-m" in original[:-1]:
        return original[original.index("-m") + 1]
    return argv[0]


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Called by Prefect at import."""
    if sys.argv:
        sys.argv[1:] = expand([program_of(sys.argv, sys.orig_argv), *sys.argv[1:]])[1:]
