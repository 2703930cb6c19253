"""The dataset report as one static page: it needs no server, no network and no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from ltxcore.stages.bucket_advice import advice_rows
from ltxcore.stages.dataset_report import Clip, DatasetReport
from ltxcore.stages.report_look import SCRIPT, STYLE
from ltxcore.stages.snapshot_changes import SnapshotChanges
from ltxcore.store.blobs import write_atomic

MOST_CAPTION_CHARACTERS = 600
"""Of each clip, over all its captions: a page with ten thousand clips has to stay a page."""
MOST_CHANGES = 500
MOST_BARS = 24
MOST_BUCKETS = 60
NUMERIC = ("clips", "tokens", "sound", "visits", "buckets", "waste", "cropped", "dropped", "out", "files")


def write_page(path: Path, report: DatasetReport) -> Path:
    """Write the page and return its path."""
    write_atomic(path, page(report).encode())
    return path


def page(report: DatasetReport) -> str:
    """The whole page."""
    title = "Dataset report"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">Snapshot <code>{report.snapshot.id}</code>,
{escape(", ".join(sorted(report.snapshot.roots)))}</p>
{_facts(report.facts())}
{_notes(report.warnings())}
</header>
<main>
{_changes(report.changes)}
{_buckets(report)}
{_rejections(report)}
<div class="two">
{_sound(report)}
{_captions(report)}
{_lengths(report)}
{_rates(report)}
</div>
{_clips(report)}
</main>
<footer></footer>
<script type="application/json" id="data">{_data(report)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _facts(facts: Mapping[str, str]) -> str:
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _table(rows: Sequence[Mapping[str, Any]], strong: str = "") -> str:
    """A table of plain rows; the row whose first value is `strong` stands out."""
    if not rows:
        return ""
    right = {name for name in rows[0] if name.split()[-1] in NUMERIC or name.split()[0] in NUMERIC}
    cell = {name: ' class="number"' if name in right else "" for name in rows[0]}
    head = "".join(f"<th{cell[name]}>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr{' class=strong' if strong and next(iter(row.values())) == strong else ''}>"
        + "".join(f"<td{cell[name]}>{escape(str(value))}</td>" for name, value in row.items())
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _buckets(report: DatasetReport) -> str:
    rows = sorted(report.buckets, key=lambda row: -int(row["clips"]))
    most = max((int(row["clips"]) for row in rows), default=1)
    bars = "".join(
        f'<span>{escape(row["bucket"])}</span><span class="track" title="with and without sound">'
        f"{_fill(row['with sound'], most)}{_fill(row['clips'] - row['with sound'], most)}</span>"
        f'<span class="number">{row["clips"]} clips, {row["video tokens"]:,} tokens</span>'
        for row in rows[:MOST_BUCKETS]
    )
    rest = f'<p class="fine">and {len(rows) - MOST_BUCKETS} more</p>' if len(rows) > MOST_BUCKETS else ""
    advice = "".join(
        f"<h3>{escape(found.dataset)}: what the buckets waste, and what others would</h3>"
        f'<p class="fine">Of all frames of {found.clips} clips, weighted by visits; cropped pixels count as '
        f"parts of frames. At most {found.max_tokens:,} tokens a sample.</p>"
        f"{_table(advice_rows(found), 'proposed')}"
        for found in report.advice
    )
    could_sound = any(clip.kind != "image" for clip in report.taken)
    legend = '<p class="fine">Blue: clips with sound. Grey: without.</p>' if could_sound else ""
    return _card("Buckets", f'<div class="bars">{bars}</div>{rest}{legend}{advice}')


def _fill(part: int, whole: int) -> str:
    return f'<span class="fill" style="width:{100 * part / max(1, whole):.2f}%"></span>'


def _rejections(report: DatasetReport) -> str:
    if not report.reasons:
        return ""
    rows = [
        {"files": reason.count, "reason, as of the first": reason.text, "such as": ", ".join(reason.examples)}
        for reason in report.reasons
    ]
    return f'<section class="card"><h2>Rejected files</h2>{_table(rows)}</section>'


def _sound(report: DatasetReport) -> str:
    taken = [clip for clip in report.taken if clip.kind != "image"]
    if not taken:
        return ""
    layouts: dict[str, int] = {}
    for clip in taken:
        layouts[clip.sound or "none"] = layouts.get(clip.sound or "none", 0) + 1
    bars = "".join(
        f'<span>{escape(name)}</span><span class="track">{_fill(count, len(taken))}</span>'
        f'<span class="number">{count}</span>'
        for name, count in sorted(layouts.items(), key=lambda item: -item[1])
    )
    loudness = [clip.loudness_lufs for clip in taken if clip.loudness_lufs is not None]
    return _card("Sound", f'<div class="bars">{bars}</div><h3>Loudness</h3>{histogram(loudness, "LUFS")}')


def _captions(report: DatasetReport) -> str:
    clips = report.taken
    tokens = [clip.tokens for clip in clips if clip.tokens is not None]
    if tokens:
        cut = sorted((c for c in clips if c.cut_from), key=lambda c: -c.cut_from)
        told = "".join(f"<li>{escape(c.id)}: {c.cut_from} tokens</li>" for c in cut[:20])
        below = f'<h3>Cut at {report.max_tokens} tokens</h3><ul class="files">{told}</ul>' if told else ""
        return _card("Captions", histogram([float(t) for t in tokens], "tokens") + below)
    words = [float(len(text.split())) for clip in clips for text in clip.captions]
    below = '<p class="fine">Tokens are counted when embed-text has run.</p>'
    return _card("Captions", histogram(words, "words") + below)


def _lengths(report: DatasetReport) -> str:
    lasting = [clip for clip in report.taken if clip.kind != "image"]
    if not lasting:
        return ""
    source = histogram([clip.source_s for clip in lasting], "s", least_step=0.1)
    clips = [clip for clip in lasting if clip.kind == "video"]
    if not clips:
        return _card("Lengths", source)
    used, dropped = (sum(getattr(clip, name) for clip in clips) for name in ("frames_used", "frames_dropped"))
    whole = max(1, used + dropped)
    bar = (
        f'<div class="bars"><span>frames</span><span class="track">{_fill(used, whole)}'
        f'{_fill(dropped, whole)}</span><span class="number">{used / whole:.0%} used</span></div>'
    )
    return _card("Lengths", source + bar)


def _rates(report: DatasetReport) -> str:
    counts: dict[str, int] = {}
    for clip in report.taken:
        if clip.kind != "video":
            continue
        name = f"{clip.fps:.2f}".rstrip("0").rstrip(".")
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    most = max(counts.values())
    ordered = sorted(counts.items(), key=lambda item: -item[1])[:12]
    bars = "".join(
        f'<span>{name} fps</span><span class="track">{_fill(count, most)}</span>'
        f'<span class="number">{count}</span>'
        for name, count in ordered
    )
    return _card("Frame rates of the files", f'<div class="bars">{bars}</div>')


def _card(title: str, inside: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{inside}</section>'


def histogram(values: Sequence[float], unit: str, least_step: float = 1.0) -> str:
    """Bars of equal width, at least `least_step`, over the values, on round numbers."""
    if not values:
        return '<p class="fine">Nothing to show yet.</p>'
    step = _round_step(max(least_step, (max(values) - min(values)) / MOST_BARS))
    first = floor(min(values) / step)
    counts = [0] * (max(1, floor(max(values) / step) - first + 1))
    for value in values:
        counts[floor(value / step) - first] += 1
    most = max(counts)
    bars = "".join(
        f'<div data-n="{count}" style="height:{100 * count / most:.1f}%" '
        f'title="{count}: {(first + at) * step:g} to {(first + at + 1) * step:g} {unit}"></div>'
        for at, count in enumerate(counts)
    )
    ends = f"<span>{first * step:g} {unit}</span><span>{(first + len(counts)) * step:g} {unit}</span>"
    return f'<div class="histogram">{bars}</div><div class="scale">{ends}</div>'


def _round_step(wanted: float) -> float:
    """The smallest of 1, 2, 5, 10, … (and their tenths) that is at least so large."""
    power = 10.0 ** floor(log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))


def _changes(changes: SnapshotChanges | None) -> str:
    if changes is None:
        return ""
    counts = ", ".join(
        f"{number} {what}"
        for what in ("added", "removed", "renamed", "changed", "now taken", "now rejected")
        if (number := changes.count(what))
    )
    rows = changes.rows()
    more = f'<p class="fine">and {len(rows) - MOST_CHANGES} more</p>' if len(rows) > MOST_CHANGES else ""
    buckets = [
        {"bucket": name, "clips before": before, "clips after": after}
        for name, before, after in changes.buckets
    ]
    return f"""<section class="card"><h2>Changes since <code>{changes.before}</code></h2>
<p class="fine">{counts or "nothing"}; {changes.unchanged} unchanged</p>
{_table(rows[:MOST_CHANGES])}{more}
{"<h3>Buckets</h3>" + _table(buckets) if buckets else ""}
</section>"""


def _clips(report: DatasetReport) -> str:
    return f"""<section class="card"><h2>Clips</h2>
<div class="search">
<input id="search" type="search" placeholder="Name, caption, bucket, reason …" aria-label="Search clips">
<select id="kind" aria-label="Which clips">
<option value="">all {len(report.clips)}</option><option value="taken">taken</option>
<option value="rejected">rejected</option><option value="quarantined">quarantined</option>
<option value="remarks">with remarks</option><option value="silent">without sound</option>
</select>
<span id="count" class="fine" aria-live="polite"></span>
</div>
{_few_thumbnails(report)}<table class="clips">
<thead><tr><th></th><th>clip</th><th>verdict</th><th>bucket</th><th>sound</th></tr></thead>
<tbody></tbody></table>
<p><button type="button" id="more" hidden>Show more</button></p>
<noscript><p class="notes">The table of clips needs JavaScript; dataset-report.csv beside this page has all
of it.</p></noscript>
</section>"""


def _few_thumbnails(report: DatasetReport) -> str:
    seen = len({clip.media_id for clip in report.taken if clip.kind != "audio"})
    if len(report.thumbnails) >= seen:
        return ""
    return f'<p class="fine">Of {seen:,} contents {len(report.thumbnails):,} are shown by a thumbnail.</p>\n'


def _data(report: DatasetReport) -> str:
    """The clips and pictures for the script, as JSON that cannot end its element."""
    pictures = {media: base64.b64encode(jpeg).decode() for media, jpeg in report.thumbnails.items() if jpeg}
    shown = {"clips": [_row(clip) for clip in report.clips], "thumbnails": pictures}
    text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _row(clip: Clip) -> dict[str, Any]:
    return {
        "id": clip.id,
        "kind": clip.kind,
        "media": clip.media_id,
        "verdict": clip.verdict,
        "remarks": clip.remarks,
        "bucket": clip.bucket,
        "size": clip.size,
        "fps": round(clip.fps, 2),
        "seconds": round(clip.source_s, 2),
        "used": round(clip.used_s, 2),
        "captions": _shortened(clip.captions),
        "tokens": clip.tokens,
        "cut": clip.cut_from,
        "sound": clip.sound,
        "lufs": None if clip.loudness_lufs is None else round(clip.loudness_lufs, 1),
        "wave": clip.waveform,
    }


def _shortened(captions: Sequence[str]) -> list[str]:
    each = ceil(MOST_CAPTION_CHARACTERS / max(1, len(captions)))
    return [text if len(text) <= each else f"{text[:each]}…" for text in captions]
