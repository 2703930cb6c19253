"""References, masks and sounds are found by the names of clips as a person reads them."""

from __future__ import annotations

import unicodedata

import pytest

from ltxcore.media.errors import MediaError
from ltxcore.stages.probe_media.files_by_name import NamedFiles


def named(*paths: str) -> NamedFiles[str]:
    files: NamedFiles[str] = NamedFiles()
    for path in paths:
        files.add("masks", path, path)
    return files


def test_the_exact_name_wins_then_accents_then_letter_case() -> None:
    decomposed = unicodedata.normalize("NFD", "Füchse.png")
    assert named("fox.png", "FOX.png").of_clip("masks", "fox.mp4", "mask") == ("fox.png", "")
    assert named(decomposed, "FÜCHSE.png").of_clip("masks", "Füchse.mp4", "mask") == (decomposed, "")
    assert named("deep/FOX.PNG").of_clip("masks", "Deep/fox.mp4", "mask") == (
        "deep/FOX.PNG",
        "its mask is deep/FOX.PNG: the letter case differs",
    )
    found = named("other/FOX.PNG").of_clip("masks", "fox.mp4", "mask")
    assert found is not None
    assert found.file == "other/FOX.PNG"
    assert named("wolf.png").of_clip("masks", "fox.mp4", "mask") is None
    with pytest.raises(MediaError, match=r"has more than one mask in masks: Fox\.png, FOX\.png; keep one"):
        named("Fox.png", "FOX.png").of_clip("masks", "fox.mp4", "mask")
