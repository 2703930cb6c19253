"""How the dataset report looks and behaves: what it has beyond the gallery's style, and its one script."""

from __future__ import annotations

from typing import Final

from ltxcore.validation.gallery_look import STYLE as GALLERY_STYLE

STYLE: Final = (
    GALLERY_STYLE
    + """
.two { display:grid; grid-template-columns:repeat(auto-fit,minmax(24rem,1fr)); gap:0 1.25rem; }
.two > .card { min-width:0; margin:.625rem 0; }
table { border-collapse:collapse; width:100%; font-size:.88rem; font-variant-numeric:tabular-nums; }
th { text-align:left; font-size:.75rem; font-weight:600; color:var(--faint); }
th,td { padding:.4rem .75rem .4rem 0; border-bottom:1px solid var(--line); vertical-align:top; }
td { overflow-wrap:anywhere; }
tr:last-child td { border-bottom:0; }
.number { text-align:right; white-space:nowrap; }
.wide { overflow-x:auto; margin-top:.5rem; }
.wide td { min-width:5rem; }
.wide td:first-child { min-width:6.5rem; }
.wide td:last-child { min-width:11rem; }
.wide td.number { min-width:0; }
.strong td { font-weight:600; }
.bars { display:grid; grid-template-columns:max-content 1fr max-content; gap:.3rem .75rem; align-items:center;
  font-size:.88rem; margin-top:.75rem; font-variant-numeric:tabular-nums; }
.bars .track { background:var(--line); border-radius:99px; height:.6rem; overflow:hidden; display:flex; }
.bars .fill { background:var(--accent); height:100%; }
.bars .fill + .fill { background:var(--faint); opacity:.55; }
.histogram { display:flex; align-items:flex-end; gap:2px; height:7.5rem; margin-top:.75rem;
  border-bottom:1px solid var(--line); }
.histogram div { flex:1; background:var(--accent); border-radius:3px 3px 0 0; min-height:1px; }
.histogram div[data-n="0"] { background:transparent; }
.scale { display:flex; justify-content:space-between; font-size:.75rem; color:var(--faint); }
.search { display:flex; flex-wrap:wrap; gap:.75rem; align-items:center; margin:.75rem 0; }
.search input,.search select { font:inherit; font-size:.9rem; color:var(--ink); background:var(--paper);
  border:1px solid var(--line); border-radius:99px; padding:.45rem 1rem; min-height:2.5rem; }
.search input { flex:1; min-width:12rem; }
input:focus-visible,select:focus-visible { outline:3px solid var(--accent); outline-offset:1px; }
.clips td:first-child { width:120px; }
.clips td:nth-child(4) { min-width:8.5rem; }
.clips td:nth-child(5) { min-width:115px; }
.clips img { margin:0; border-radius:6px; max-width:112px; max-height:112px; }
.clips .blank { width:112px; height:63px; border-radius:6px; background:var(--line); }
.clips .name { font-weight:600; }
.clips .caption { color:var(--faint); display:-webkit-box; -webkit-box-orient:vertical; -webkit-line-clamp:3;
  overflow:hidden; white-space:pre-line; max-width:60ch; }
.clips svg { display:block; color:var(--accent); }
.verdict { padding:.1rem .55rem; border-radius:99px; font-size:.78rem; font-weight:600; white-space:nowrap;
  border:1px solid var(--line); color:var(--faint); }
.verdict.rejected,.verdict.quarantined { background:var(--warn-paper); color:var(--warn);
  border-color:transparent; }
.remark { color:var(--warn); font-size:.82rem; }
@media (max-width:640px) { .two { grid-template-columns:1fr; } .clips thead { display:none; }
  .clips tr { display:block; padding:.75rem 0;
  border-bottom:1px solid var(--line); } .clips td { display:block; border:0; padding:.15rem 0; }
  .clips .number { text-align:left; } }
"""
)

SCRIPT: Final = """
const data = JSON.parse(document.getElementById("data").textContent);
const body = document.querySelector(".clips tbody");
const search = document.getElementById("search");
const kind = document.getElementById("kind");
const more = document.getElementById("more");
const count = document.getElementById("count");
const PAGE = 60;
let found = [], shown = 0;

const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const picture = (clip) => {
  const jpeg = data.thumbnails[clip.media];
  if (!jpeg) return make("div", undefined, "blank");
  const image = make("img");
  image.loading = "lazy";
  image.alt = "";
  image.src = "data:image/jpeg;base64," + jpeg;
  return image;
};
const waveform = (levels, width, height) => {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 " + levels.length * 3 + " 36");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "waveform");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", [...levels].map((digit, i) => {
    const half = Math.max(0.5, parseInt(digit, 36) / 35 * 17);
    return `M${i * 3 + 1} ${18 - half}V${18 + half}`;
  }).join(""));
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "2");
  svg.append(path);
  return svg;
};
const row = (clip) => {
  const line = make("tr"), cells = Array.from({length: 5}, () => make("td"));
  const alone = clip.kind === "audio";
  cells[0].append(alone && clip.wave ? waveform(clip.wave, 112, 63) : picture(clip));
  cells[1].append(make("div", clip.id, "name"));
  for (const remark of clip.remarks) cells[1].append(make("div", remark, "remark"));
  if (clip.captions.length) cells[1].append(make("div", clip.captions.join("\\n"), "caption"));
  cells[2].append(make("span", clip.verdict, "verdict " + clip.verdict));
  if (clip.bucket) {
    cells[3].append(make("div", clip.bucket));
    const shape = [clip.size, clip.kind === "video" ? clip.fps + " fps" : ""].filter(Boolean).join(", ");
    if (shape) cells[3].append(make("div", shape, "fine"));
    if (clip.kind !== "image") cells[3].append(make("div", clip.used + " of " + clip.seconds + " s", "fine"));
    if (clip.tokens !== null) {
      const cut = clip.cut ? ", cut from " + clip.cut : "";
      cells[3].append(make("div", clip.tokens + " tokens" + cut, clip.cut ? "remark" : "fine"));
    }
    const loud = clip.lufs === null ? "" : ", " + clip.lufs + " LUFS";
    if (clip.wave && !alone) cells[4].append(waveform(clip.wave, 115, 28));
    if (clip.kind !== "image") {
      cells[4].append(make("div", clip.sound ? clip.sound + loud : "no sound", "fine"));
    }
  }
  line.append(...cells);
  return line;
};
const show = () => {
  const next = found.slice(shown, shown + PAGE);
  body.append(...next.map(row));
  shown += next.length;
  more.hidden = shown >= found.length;
  count.textContent = `${shown} of ${found.length}`;
};
const filter = () => {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  found = data.clips.filter((clip) => (kind.value === "" || clip.verdict === kind.value
      || (kind.value === "silent" && clip.kind === "video" && !clip.sound)
      || (kind.value === "remarks" && clip.remarks.length))
    && words.every((word) => clip.text.includes(word)));
  shown = 0;
  body.replaceChildren();
  show();
};
for (const clip of data.clips) {
  clip.text = [clip.id, clip.verdict, clip.bucket, clip.size, clip.sound, ...clip.remarks, ...clip.captions]
    .join(" ").toLowerCase();
}
let timer;
search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 120); });
kind.addEventListener("change", filter);
more.addEventListener("click", show);
filter();
"""
