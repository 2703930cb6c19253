"""Videos with transparency: finds them, and puts them on white, as for pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, last_words, open_input, run_tool
from ltxcore.media.streams import Fields

ALPHA_TIMEOUT_S = 300.0
_WITH_ALPHA = re.compile(r"yuva|ayuv|gbrap|ya\d|rgba|argb|bgra|abgr|pal8")
_OF_WEBM = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""ffmpeg's own decoders leave out the alpha of these."""
_BOX = re.compile(rb"Parsed_bbox\S* @ [^\]]*\].* x1:")


def may_be_seen_through(stream: Fields) -> bool:
    """Whether a stream has room for transparency."""
    tagged = any(stream.get(f"tag:{name}") == "1" for name in ("alpha_mode", "ALPHA_MODE"))
    tagged = tagged and stream.get("codec_name") in _OF_WEBM
    return tagged or _WITH_ALPHA.match(stream.get("pix_fmt", "")) is not None


def alpha_decoder(codec: str, on_white: bool) -> dict[str, Any]:
    """Options of an ffmpeg input whose transparency is wanted."""
    return {"c:v": _OF_WEBM[codec]} if on_white and codec in _OF_WEBM else {}


def is_seen_through(path: Path, stream: Fields, most_pixels: int) -> bool:
    """Whether any pixel of a stream that `may_be_seen_through` is not opaque. Decodes the stream.

    Raises:
        MediaError: it does not decode.
        Undecided: ffmpeg took too long, or was stopped.
    """
    source = open_input(path, most_pixels, **alpha_decoder(stream.get("codec_name", ""), True))
    alpha = source[stream["index"]].filter("format", "yuva444p|gbrap|ya8").filter("alphaextract")
    inverse = alpha.filter("format", "gray").filter("negate").filter("bbox", min_val=1)
    command = inverse.output("pipe:", format="null").compile(cmd=[*FFMPEG, "-v", "info"])
    done = run_tool(command, ALPHA_TIMEOUT_S)
    if done.returncode != 0:
        raise MediaError(f"its transparency does not decode; ffmpeg says: {last_words(done.stderr, path)}")
    return _BOX.search(done.stderr) is not None


def on_white(pictures: Any, matrix: dict[str, Any], deep: bool) -> Any:
    """Filters that put pictures with transparency on white: 255 - (255 - colour) * alpha.

    Args:
        pictures: a stream of ffmpeg-python.
        matrix: of their colours, as options of a scale filter.
        deep: whether 12 bits a colour are kept in place of 8.
    """
    bits = "12le" if deep else ""
    see_through = pictures.filter("scale", flags="accurate_rnd+full_chroma_int+full_chroma_inp", **matrix)
    dark = see_through.filter("format", f"gbrap{bits}").filter("negate", components="r+g+b")
    weighed = dark.filter("premultiply", inplace=1)
    return weighed.filter("negate", components="r+g+b").filter("format", f"gbrp{bits}")
