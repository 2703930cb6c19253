"""Colours of a video: which standard they follow, and their conversion to BT.709.

HDR follows BT.2408: its diffuse white, 203 nits, is the white of the result; what is brighter is squeezed
into the last hundredths below it. Wide-gamut SDR (BT.2020, P3) is converted without that.
"""

from __future__ import annotations

import subprocess
from functools import cache
from typing import Any

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError, ToolMissing
from ltxcore.media.streams import Fields

HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
WIDE = {"bt2020": "BT.2020", "smpte432": "P3", "smpte431": "P3"}
WHITE_NITS = 203
KNEE = 0.95
"""Up to this part of white nothing is changed by the tone mapping."""
HD_COLUMNS, SD_LINES = 1280, 576
"""An untagged video is BT.709 from so many columns on or with more lines than these, otherwise BT.601."""
NEEDED = ("zscale", "tonemap")


class Colours(Strict):
    """The colour tags of a stream; None where it has none."""

    matrix: str | None = None
    transfer: str | None = None
    primaries: str | None = None
    levels: str | None = None
    """`pc` where black is 0 and white 255."""

    @property
    def hdr(self) -> str | None:
        """The name of its HDR curve."""
        return HDR.get(self.transfer or "")

    @property
    def wide(self) -> str | None:
        """The name of its gamut, where that is SDR and wider than BT.709."""
        return None if self.hdr else WIDE.get(self.primaries or "")


def read_colours(stream: Fields) -> Colours:
    """The colours of a stream of ffprobe.

    Raises:
        MediaError: Dolby Vision whose base layer is no picture for other players.
    """
    refuse_dolby_vision(stream)
    return Colours(
        matrix=stream.get("color_space"),
        transfer=stream.get("color_transfer"),
        primaries=stream.get("color_primaries"),
        levels=stream.get("color_range"),
    )


def refuse_dolby_vision(stream: Fields) -> None:
    """Refuse profile 5 and its like, whose colours (IPT) are green and violet without Dolby's own decoder.

    Raises:
        MediaError: it is one of them.
    """
    said = {name.rpartition(":")[2]: value for name, value in stream.items()}
    profile = int(said.get("dv_profile", "0"))
    alone = said.get("dv_bl_signal_compatibility_id", "0") == "0"
    if profile == 5 or (profile >= 10 and alone):
        raise MediaError(
            f"is Dolby Vision of profile {profile}, whose colours only Dolby's decoders know; "
            "export it as HDR10, HLG or SDR"
        )


def matrix_of(colours: Colours, stored: tuple[int, int]) -> dict[str, Any]:
    """Options of a scale filter for pictures that do not name their matrix, as players guess it."""
    if colours.matrix is not None:
        return {}
    hd = stored[0] >= HD_COLUMNS or stored[1] > SD_LINES
    return {"in_color_matrix": "bt709" if hd else "bt601"}


def to_screen(pictures: Any, colours: Colours) -> Any:
    """Filters that turn HDR or a wide gamut into BT.709, full range RGB; others are returned as they are.

    Raises:
        ToolMissing: this ffmpeg was built without them.
    """
    if colours.hdr is None and colours.wide is None:
        return pictures
    _check_filters()
    linear = pictures.filter(
        "zscale",
        transferin=colours.transfer or "bt709",
        primariesin=colours.primaries or "bt2020",
        matrixin=colours.matrix or "bt2020nc",
        rangein="full" if colours.levels == "pc" else "limited",
        transfer="linear",
        npl=WHITE_NITS,
    ).filter("format", "gbrpf32le")
    narrow = linear.filter("zscale", primaries="bt709")
    if colours.hdr is not None:
        narrow = narrow.filter("tonemap", tonemap="mobius", param=KNEE, desat=0)
    return narrow.filter("zscale", transfer="bt709", matrix="gbr", range="full").filter("format", "gbrp")


@cache
def _check_filters() -> None:
    listed = subprocess.run(
        ["ffmpeg", "-hide_banner", "-filters"], capture_output=True, text=True, check=True
    )
    names = {line.split()[1] for line in listed.stdout.splitlines() if len(line.split()) > 1}
    if not names.issuperset(NEEDED):
        raise ToolMissing(f"An ffmpeg with the filters {' and '.join(NEEDED)}, which HDR needs,")
