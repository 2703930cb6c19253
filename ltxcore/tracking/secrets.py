"""Keeps passwords and tokens out of what is sent and logged."""

from __future__ import annotations

import os
import re

HIDDEN = "***"
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY_SECRET = re.compile(r"(?i)\b((?:x-amz-)?(?:token|password|secret|signature|api_?key|sig)=)[^&\s]+")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[._-])(?:token|password|passwd|secret|api_?key|access_?key|credentials?)$"
)
_MIN_SECRET_LENGTH = 6
"""A shorter value from the environment would blot out ordinary words."""


def redact(text: str) -> str:
    """The text without credentials in URLs and without any secret that the environment holds."""
    for name, value in os.environ.items():
        if is_secret(name) and len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, HIDDEN)
    return _QUERY_SECRET.sub(rf"\1{HIDDEN}", _USER_IN_URL.sub(HIDDEN, text))


def is_secret(name: str) -> bool:
    """Whether a variable or parameter of this name holds a secret, e.g. HF_TOKEN or `hub.api_key`."""
    return _SECRET_NAME.search(name) is not None
