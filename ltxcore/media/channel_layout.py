"""Which speaker each channel of a sound is for, and how much of it goes left and right."""

from __future__ import annotations

import re

from ltxcore.media.errors import MediaError

MINUS_3_DB = 0.707
"""The constant of the reference, which is not sqrt(1/2)."""
QUAD = 4
_LAYOUTS = {
    "mono": "FC",
    "stereo": "FL FR",
    "downmix": "FL FR",
    "2.1": "FL FR LFE",
    "3.0": "FL FR FC",
    "3.0(back)": "FL FR BC",
    "3.1": "FL FR FC LFE",
    "4.0": "FL FR FC BC",
    "4.1": "FL FR FC LFE BC",
    "quad": "FL FR BL BR",
    "quad(side)": "FL FR SL SR",
    "5.0": "FL FR FC BL BR",
    "5.0(side)": "FL FR FC SL SR",
    "5.1": "FL FR FC LFE BL BR",
    "5.1(side)": "FL FR FC LFE SL SR",
    "6.0": "FL FR FC BC SL SR",
    "6.0(front)": "FL FR FLC FRC SL SR",
    "hexagonal": "FL FR FC BL BR BC",
    "6.1": "FL FR FC LFE BC SL SR",
    "6.1(back)": "FL FR FC LFE BL BR BC",
    "6.1(front)": "FL FR LFE FLC FRC SL SR",
    "7.0": "FL FR FC BL BR SL SR",
    "7.0(front)": "FL FR FC FLC FRC SL SR",
    "7.1": "FL FR FC LFE BL BR SL SR",
    "7.1(wide)": "FL FR FC LFE BL BR FLC FRC",
    "7.1(wide-side)": "FL FR FC LFE FLC FRC SL SR",
    "octagonal": "FL FR FC BL BR BC SL SR",
}
_USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
WIDEST = "7.1"
_UNNAMED = re.compile(r"unknown|\d+ channels?")
_LEFT_RIGHT = {
    "FL": (1.0, 0.0),
    "FR": (0.0, 1.0),
    "FLC": (1.0, 0.0),
    "FRC": (0.0, 1.0),
    "FC": (MINUS_3_DB, MINUS_3_DB),
    "BL": (MINUS_3_DB, 0.0),
    "BR": (0.0, MINUS_3_DB),
    "SL": (MINUS_3_DB, 0.0),
    "SR": (0.0, MINUS_3_DB),
    "BC": (0.5, 0.5),
    "LFE": (0.0, 0.0),
}


def stereo_weights(layout: str, channels: int) -> list[tuple[float, float]]:
    """The weight of each channel in the left and in the right side.

    Mono is duplicated and stereo kept. Of more channels, centre and surrounds go in at -3 dB, a single back
    channel at -6 dB to each side, and the low-frequency channel is left out (ITU-R BS.775); then each side
    is divided by the sum of its weights, so that the mix is no louder than what was mixed and cannot clip.
    Of four channels both sides get the mean of all. Channels of which the file does not say whose they are
    get the usual layout of their number.

    Raises:
        MediaError: a layout whose speakers are not known.
    """
    if channels == 1:
        return [(1.0, 1.0)]
    speakers = _speakers(layout, channels)
    if channels == QUAD:
        return [(1 / QUAD, 1 / QUAD)] * QUAD
    shares = [_LEFT_RIGHT[speaker] for speaker in speakers]
    left, right = (sum(share[side] for share in shares) for side in (0, 1))
    return [(share[0] / left, share[1] / right) for share in shares]


def weights_in_widest(layout: str, channels: int) -> list[tuple[float, float]]:
    """`stereo_weights` of sound that was put into the eight channels of `WIDEST`, each where its speaker is.

    Raises:
        MediaError: a layout with speakers that 7.1 has not.
    """
    speakers = ["FC"] if channels == 1 else _speakers(layout, channels)
    places = _LAYOUTS[WIDEST].split()
    if not set(speakers).issubset(places):
        raise MediaError(f"its sound changes to {channels} channels ({layout}) in the middle; convert it")
    shares = dict(zip(speakers, stereo_weights(layout, channels), strict=True))
    return [shares.get(place, (0.0, 0.0)) for place in places]


def _speakers(layout: str, channels: int) -> list[str]:
    named = _USUAL.get(channels, "") if _UNNAMED.fullmatch(layout) else layout
    speakers = _LAYOUTS.get(named, "").split()
    if len(speakers) != channels:
        raise MediaError(
            f"has sound in {channels} channels ({layout}); convert it to mono, stereo, 5.1 or 7.1"
        )
    return speakers
