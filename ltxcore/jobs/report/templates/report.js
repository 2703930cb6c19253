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
// Beside the page's own disk a clip is its file; from a server it is asked for by its name.
const place = (clip) => location.protocol === "file:" ? clip.file
  : "/clips/" + data.snapshot + "/" + clip.id.split("/").map(encodeURIComponent).join("/");
const player = (clip, still) => {
  const button = make("button", undefined, "still");
  button.type = "button";
  button.setAttribute("aria-label", "Play " + clip.id);
  button.append(still);
  button.addEventListener("click", () => {
    const film = make(clip.kind === "audio" ? "audio" : "video");
    film.controls = film.autoplay = film.loop = film.playsInline = true;
    film.src = place(clip);
    film.setAttribute("aria-label", clip.id);
    film.addEventListener("error", () => {
      const link = make("a", "open the file");
      link.href = place(clip);
      const note = make("div", "this browser does not play it; ", "fine");
      note.append(link);
      film.replaceWith(note);
    });
    button.replaceWith(film);
  });
  return button;
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
  const still = alone && clip.wave ? waveform(clip.wave, 112, 63) : picture(clip);
  cells[0].append(clip.kind === "video" || alone ? player(clip, still) : still);
  cells[1].append(make("div", clip.id, "name"));
  for (const remark of clip.remarks) cells[1].append(make("div", remark, "remark"));
  if (clip.captions.length) cells[1].append(make("div", clip.captions.join("\n"), "caption"));
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
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
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
