"""How the gallery looks and behaves: the style and the one script that stand inside the page."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { --paper:#f6f7f9; --card:#fff; --ink:#1a1d23; --faint:#5d6675; --line:#e1e5eb; --accent:#1663c7;
  --accent-ink:#fff; --warn:#8a4b00; --warn-paper:#fff1dc;
  --shadow:0 1px 2px #0000000d,0 6px 24px #0000000d; }
@media (prefers-color-scheme: dark) {
  :root { --paper:#111317; --card:#1a1d23; --ink:#e9ecf1; --faint:#98a1b0; --line:#2a2f38; --accent:#6cb2ff;
    --accent-ink:#0b1a2b; --warn:#ffc98a; --warn-paper:#3a2a14; --shadow:none; }
}
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink); line-height:1.5;
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif; }
header,main,footer { max-width:1180px; margin:0 auto; padding:0 1.25rem; }
header { padding-top:2.25rem; }
h1 { font-size:clamp(1.4rem,4vw,2rem); line-height:1.2; margin:0 0 .25rem; overflow-wrap:anywhere; }
h2 { font-size:1.1rem; margin:0; overflow-wrap:anywhere; }
h3 { font-size:.9rem; margin:1.25rem 0 .25rem; }
.lead,.fine { color:var(--faint); }
.lead { margin:0 0 1rem; }
.fine { font-size:.82rem; margin:.5rem 0 0; }
.card { background:var(--card); border:1px solid var(--line); border-radius:14px; box-shadow:var(--shadow);
  padding:1.25rem; margin:1.25rem 0; }
.head { display:flex; gap:1rem; align-items:center; justify-content:space-between; }
.prompt { margin:.5rem 0 1rem; max-width:75ch; overflow-wrap:anywhere; white-space:pre-line; }
.pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(15rem,1fr)); gap:1rem; }
.steps { display:grid; grid-template-columns:repeat(auto-fill,minmax(11rem,1fr)); gap:.75rem;
  margin-top:.6rem; }
details { margin-top:1rem; }
summary { cursor:pointer; font-size:.9rem; font-weight:600; }
figure { margin:0; min-width:0; }
figcaption { display:flex; flex-wrap:wrap; gap:.4rem; margin-bottom:.4rem; font-size:.8rem; }
.tag,.flag { padding:.1rem .55rem; border-radius:99px; font-weight:600; }
.tag { border:1px solid var(--line); color:var(--faint); }
.lora .tag { border-color:var(--accent); background:var(--accent); color:var(--accent-ink); }
.ema .tag { border-color:var(--accent); color:var(--accent); }
.flag { background:var(--warn-paper); color:var(--warn); }
video { display:block; width:100%; aspect-ratio:var(--ratio); background:#000;
  border-radius:10px; object-fit:contain; }
img { display:block; max-width:100%; height:auto; border-radius:10px; margin-top:.75rem; }
button { font:inherit; font-size:.9rem; font-weight:600; color:var(--accent-ink); background:var(--accent);
  border:0; border-radius:99px; padding:.5rem 1.1rem; min-height:2.5rem; cursor:pointer; white-space:nowrap; }
button:focus-visible,video:focus-visible,a:focus-visible {
  outline:3px solid var(--accent); outline-offset:2px; }
.facts { display:grid; grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));
  gap:.75rem 1.25rem; margin:.75rem 0; }
dt { font-size:.75rem; color:var(--faint); }
dd { margin:0; font-weight:600; overflow-wrap:anywhere; }
.notes { margin:.75rem 0; padding:.7rem 1rem .7rem 2rem; border-radius:10px; background:var(--warn-paper);
  color:var(--warn); font-size:.9rem; }
.files { margin:0; padding-left:1.2rem; }
code { font-family:ui-monospace,"DejaVu Sans Mono",monospace; font-size:.9em; overflow-wrap:anywhere; }
footer { padding-bottom:3rem; }
@media (max-width:640px) {
  header,main,footer { padding-left:.75rem; padding-right:.75rem; }
  .card { padding:1rem; } .pair { grid-template-columns:1fr; }
}
"""

SCRIPT: Final = """
for (const card of document.querySelectorAll("article")) {
  const button = card.querySelector(".play");
  const videos = [...card.querySelectorAll(".pair video")];
  const many = videos.length > 2 ? "all" : "both";
  const rest = () => videos.every((video) => video.paused);
  const show = () => { button.textContent = `${rest() ? "Play" : "Pause"} ${many}`; };
  button.addEventListener("click", () => {
    const start = rest();
    for (const [place, video] of videos.entries()) {
      if (start) {
        // All pictures run; the sound of the last is heard, since two sounds at once are none.
        video.currentTime = 0;
        video.muted = place < videos.length - 1;
        video.play();
      } else {
        video.pause();
      }
    }
  });
  for (const video of videos) {
    video.addEventListener("play", show);
    video.addEventListener("pause", show);
  }
}
"""
