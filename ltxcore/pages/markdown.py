"""Text as Markdown that reads as the text: on the hub, and in Prefect's UI."""

from __future__ import annotations

import re
from html import escape
from typing import Final

from markupsafe import Markup

_MARKS: Final = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
"""An underscore inside a word marks up nothing."""
_BEGINNING: Final = re.compile(r"(?:#+|[-+=]+|\d+[.)])(?=\s|$)")
"""What makes a heading, a list or a rule of a line that begins with it."""


def escaped(value: object) -> Markup:
    """A value as one line in which nothing is a tag, a link, a picture or any other mark.

    What is marked as safe, such as the output of a macro, stays as it is.
    """
    if hasattr(value, "__html__"):
        return Markup(value)  # noqa: S704
    line = _MARKS.sub(r"\\\g<0>", escape(" ".join(str(value).split()), quote=False))
    begun = _BEGINNING.match(line)
    if begun:
        line = f"{line[: begun.end() - 1]}\\{line[begun.end() - 1 :]}"
    return Markup(line)  # noqa: S704
