"""Tests the comb detector on whole frames that look combed, and on frames woven of two fields.

`python -m bench.interlacing` writes a table with how sure the detector is of clips of each kind and quality:
the surest of whole frames, the least sure of fields. 1 is where it decides. `--sizes 640x360` tries fewer.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

from bench.interlacing_clips import (
    FIELD_QUALITIES,
    FIELDS,
    MOVING,
    RATES,
    SIZES,
    TELECINE,
    WHOLE,
    WHOLE_QUALITIES,
    encode,
)
from bench.machine import describe_machine, write_table
from ltxcore.media.interlacing import count_fields, find_combs
from ltxcore.media.perceptual_hash import Pictures
from ltxcore.media.probe import read_streams
from ltxcore.media.sample_list import BAD_FILES
from ltxcore.media.samples import SetName, make_samples

FIELD_RATE, FILM_RATE = "50", "24"
FINE = 12
BAD = {*BAD_FILES}


@dataclass(frozen=True)
class Score:
    """How sure the detector is of a clip, by what idet counts and by the combs; both must be above 1."""

    fields: float
    combs: float

    @property
    def both(self) -> float:
        """What decides."""
        return min(self.fields, self.combs)


def score(path: Path) -> Score:
    """How sure the detector is of a clip. Both parts are asked, which the product does only where it must."""
    video = read_streams(path).video
    pictures = Pictures(video.index, video.duration_s, video.most_pixels, video.stored)
    counts = count_fields(path, pictures)
    combs = [found.certainty() for found in find_combs(path, pictures, counts.order)]
    return Score(counts.certainty(), max(combs))


Scores = list[tuple[int | None, Score]]
"""Of clips, each with its quality, where it is known."""


def row(kind: str, name: str, found: Scores, surest: bool) -> list[str]:
    """A row of the table: of the finer and of the coarser clips the score nearest to the other side of 1."""
    nearest = max if surest else min
    fine = [one.both for quality, one in found if quality in (FINE, None)]
    coarse = [one.both for quality, one in found if quality != FINE]
    above = sum(one.both > 1 for _, one in found)
    line = [kind, name, str(len(found)), str(above), f"{nearest(fine):.2f}", f"{nearest(coarse):.2f}"]
    print(" | ".join(line), flush=True)
    return line


def main() -> None:
    """Print and keep the table, and last how many whole clips were taken for fields, and fields found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--name", default="interlacing", help="of the table in bench/results")
    chosen = parser.parse_args()
    shared = Path("/dev/shm")  # noqa: S108 - a disk in memory: what is tried is arithmetic
    rows: list[list[str]] = []
    whole: Scores = []
    woven: Scores = []
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory:
        place = Path(directory)

        def of(source: str, filters: str, rate: str, qualities: tuple[int, ...]) -> Scores:
            found: Scores = []
            for size in chosen.sizes:
                for drawn, quality in product([rate] if rate else RATES[size], qualities):
                    clip = place / "clip.mp4"
                    encode(clip, source, size, drawn, filters, quality)
                    found.append((quality, score(clip)))
            return found

        for name, text in WHOLE.items():
            got = of(text, "", "", WHOLE_QUALITIES)
            rows.append(row("whole", name, got, surest=True))
            whole += got
        for sample_set in get_args(SetName):
            clips = [path for path in make_samples(place / sample_set, sample_set) if path.name not in BAD]
            got = [(None, score(clip)) for clip in clips]
            rows.append(row("whole", f"ltx2 samples --set {sample_set}", got, surest=True))
            whole += got
        for name, text in MOVING.items():
            for order, filters in FIELDS.items():
                got = of(text, filters, FIELD_RATE, FIELD_QUALITIES)
                rows.append(row(order, name, got, surest=False))
                woven += got
            for order, filters in TELECINE.items():
                rows.append(row(order, name, of(text, filters, FILM_RATE, FIELD_QUALITIES), surest=True))
    wrong, found = (sum(one.both > 1 for _, one in some) for some in (whole, woven))
    surest = max(one.both for _, one in whole)
    told = (
        f"{wrong} of {len(whole)} whole clips taken for fields, the surest at {surest:.2f} of 1; "
        f"{found} of {len(woven)} woven clips found"
    )
    header = ["frames", "shows", "clips", "above 1", "crf 12", "crf 36 (whole), 24"]
    write_table(chosen.name, f"{told}. {describe_machine()}", header, rows)
    print(told)


if __name__ == "__main__":
    main()
