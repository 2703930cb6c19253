"""Pictures with a colour profile are converted to sRGB; and the words on what a picture holds."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ltxcore.media.pictures import decode_picture, probe_picture
from ltxcore.store.snapshot import Geometry
from tests.unit.media.clips import ffmpeg

RED, GREEN = (200, 60, 40), (60, 160, 70)
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
WIDE = {
    "p3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65, 2.2),
    "adobe": (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, 2.199),
    "prophoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50, 1.8),
}
"""Name -> chromaticities of red, green and blue, of white, and gamma."""


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 for a screen."""
    place, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        padded = content + b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += padded
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02100000, b"mntr", kind, b"XYZ ")
    head += struct.pack(">6H", 2025, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(map(_fixed, (0.9642, 1.0, 0.8249))) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def _described(name: str) -> dict[bytes, bytes]:
    text = name.encode() + b"\0"
    white = b"XYZ \0\0\0\0" + b"".join(map(_fixed, (0.9642, 1.0, 0.8249)))
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    return {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": white}


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def screen(name: str) -> bytes:
    """The profile of a screen of `WIDE`: its primaries adapted to D50 by Bradford's matrix."""
    primaries, white, gamma = WIDE[name]
    points = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*primaries, white)]).T
    colours, whites = points[:, :3], points[:, 3]
    colours = colours * np.linalg.solve(colours, whites)
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapted = np.linalg.inv(cones) @ np.diag((cones @ d50) / (cones @ whites)) @ cones @ colours
    tags = _described(name)
    for at, letter in enumerate((b"r", b"g", b"b")):
        tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(_fixed, adapted[:, at]))
        tags[letter + b"TRC"] = _curve(gamma)
    return profile(b"RGB ", tags)


def cells() -> Image.Image:
    picture = Image.new("RGB", (128, 64), RED)
    picture.paste(GREEN, (64, 0, 128, 64))
    return picture


def shown(path: Path) -> list[list[int]]:
    found = probe_picture(path)
    edges = (found.width, found.height)
    frame = decode_picture(path, Geometry(source=edges, resize=edges, crop_xy=(0, 0), target=edges))[0]
    return [frame[32, 16].tolist(), frame[32, 112].tolist()]


OPTIONS = {"png": {}, "jpg": {"quality": 97, "subsampling": 0}, "webp": {"lossless": True}, "tif": {}}


@pytest.mark.parametrize("ending", OPTIONS)
@pytest.mark.parametrize("name", WIDE)
def test_a_picture_of_a_wide_screen_has_its_colours_in_srgb(name: str, ending: str, tmp_path: Path) -> None:
    path, data = tmp_path / f"wide.{ending}", screen(name)
    wide = ImageCms.profileToProfile(
        cells(), ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(data)), outputMode="RGB"
    )
    assert wide is not None
    assert np.abs(np.subtract(wide.getpixel((16, 32)), RED)).max() > 8
    wide.save(path, icc_profile=data, **OPTIONS[ending])
    assert np.abs(np.subtract(shown(path), (RED, GREEN))).max() <= (3 if ending == "jpg" else 2)
    assert f"its colours are converted from its profile ({name}) to sRGB" in probe_picture(path).notes


def test_transparency_outlives_the_conversion(tmp_path: Path) -> None:
    path, data = tmp_path / "seen.png", screen("adobe")
    wide = ImageCms.profileToProfile(
        cells(), ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(data)), outputMode="RGB"
    )
    assert wide is not None
    alpha = Image.new("L", wide.size, 255)
    alpha.paste(0, (64, 0, 128, 64))
    wide.putalpha(alpha)
    wide.save(path, icc_profile=data)
    left, right = shown(path)
    assert left == pytest.approx(RED, abs=2)
    assert right == [255, 255, 255]


def test_a_grey_profile_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    linear = profile(b"GRAY", {**_described("linear"), b"kTRC": _curve(1.0)})
    Image.new("L", (128, 64), 55).save(path, icc_profile=linear)
    # 55 of 255 of the light is 128 in sRGB.
    assert shown(path)[0] == pytest.approx([128] * 3, abs=2)


def test_srgb_by_whatever_name_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    cells().save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert shown(path) == [list(RED), list(GREEN)]
    assert probe_picture(path).notes == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"no profile at all", "cannot be read"), (profile(b"GRAY", _described("g")), "not of its kind")],
    ids=["damaged", "grey"],
)
def test_a_profile_that_does_not_fit_is_noted(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    cells().save(path, icc_profile=data)
    assert shown(path) == [list(RED), list(GREEN)]
    assert any(message in note and "taken for sRGB" in note for note in probe_picture(path).notes)


def test_a_gain_map_is_no_animation(tmp_path: Path) -> None:
    path = tmp_path / "gain.jpg"
    cells().save(path, "MPO", save_all=True, append_images=[Image.new("L", (64, 32), 90).convert("RGB")])
    assert probe_picture(path).notes == ("holds 2 pictures (a gain map, or another view): the first is used",)


def test_pages_are_no_animation_and_an_animation_is_one(tmp_path: Path) -> None:
    pages, moving = tmp_path / "pages.tif", tmp_path / "moving.gif"
    cells().save(pages, save_all=True, append_images=[Image.new("RGB", (128, 64), GREEN)])
    cells().save(moving, save_all=True, append_images=[Image.new("RGB", (128, 64), GREEN)])
    assert probe_picture(pages).notes == ("has 2 pages: the first is used",)
    assert probe_picture(moving).notes == ("is an animation of 2 pictures: the first is used",)


@pytest.mark.parametrize("name", ["colour.png", "colour.tif", "grey.png"])
def test_sixteen_bits_a_colour_are_noted(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    depth = {"colour.png": "rgb48be", "colour.tif": "rgb48le", "grey.png": "gray16be"}[name]
    options = ("-compression_algo", "raw") if name.endswith("tif") else ()
    ffmpeg(
        "-f", "lavfi", "-i", f"color=red:s=64x64:d=0.04,format={depth}", "-frames:v", "1", *options, str(path)
    )
    assert "has 16 bits a colour: it is read with 8" in probe_picture(path).notes
