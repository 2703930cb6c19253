"""What strangers wrote is shown as it reads: no formula, no control character, no turned direction."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media.discover import sample_id
from ltxcore.media.errors import MediaError
from ltxcore.pipeline.data.tables import as_csv
from ltxcore.store.printable import cell, printable

NOT_UTF8 = os.fsdecode(b"\xff.mp4")
NASTY = ("\x1b[2J\x1b]0;owned\x07", "a\rb", "a\nb", "\u202egpj.exe", "\x9b31m", "\u2028", "\x7f", NOT_UTF8)


@pytest.mark.parametrize("text", NASTY)
def test_nothing_that_moves_a_cursor_or_turns_the_text_is_left(text: str) -> None:
    assert printable(text).isprintable()
    assert str(MediaError(f"is {text}")).isprintable()
    assert str(cell(text)).isprintable()
    printable(text).encode()


def test_a_byte_that_is_not_utf8_is_named() -> None:
    assert printable(NOT_UTF8) == r"\xff.mp4"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "  =HYPERLINK(1)", "\r=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv([{"clip": text, "seconds": -1.5}]).decode()))
    assert row["clip"].startswith("'")
    assert row["seconds"] == "-1.5", "a number stays one"


def test_plain_words_stay_as_they_are() -> None:
    for text in ("clips/a=b.mp4", "Füchslein 🦊.mp4", "back\\slash", "1-2"):
        assert cell(text) == text


def test_ids_are_printable_and_different_names_have_different_ids() -> None:
    chosen = VideoDataset(id="c", dataset_type="video", instance_data_dir="x")
    names = [
        "a\nb",
        "a\\x0ab",
        "a\\x5cx0ab",
        "\x1b[31m",
        os.fsdecode(b"\xff"),
        "\\xff",
        "\\x5cxff",
        "\x9b",
        "\\x9b",
    ]
    ids = [sample_id(chosen, Path("/r"), Path("/r") / name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(name.isprintable() for name in ids)
    assert ids[0] == "c/a\\x0ab"
