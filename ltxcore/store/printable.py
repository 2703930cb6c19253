"""Text of strangers (names of files, what a tool said of them) as it may be shown: one line, as it reads."""

from __future__ import annotations

import re

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\udc80-\udcff]")
"""What moves a terminal's cursor, breaks lines, or turns the direction of what follows; and bytes of names
that are not UTF-8, which no text file can hold."""
_BYTES = range(0xDC80, 0xDD00)
"""What `surrogateescape` makes of the bytes 0x80 to 0xff."""
_LOOKS_HIDDEN = re.compile(r"\\(?=x[0-9a-f]{2}|u[0-9a-f]{4})")
_FORMULA = re.compile(r"\s*[=+\-@\t\r]")


def printable(text: str) -> str:
    """The text with control characters, marks of direction and bytes not of UTF-8 as `\\xNN` or `\\uNNNN`."""
    return _HIDDEN.sub(_escaped, text)


def printable_name(name: str) -> str:
    """`printable`; different names stay different, so a backslash that looks like an escape becomes one."""
    return printable(_LOOKS_HIDDEN.sub(r"\\x5c", name))


def cell(value: object) -> object:
    """A value for a table that a spreadsheet may open: text that it would take for a formula gets a `'`."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if _FORMULA.match(value) else printable(value)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code in _BYTES:
        code -= _BYTES.start - 0x80
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
