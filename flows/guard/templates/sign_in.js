const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const tell = id => {
  for (const paragraph of document.querySelectorAll("p")) paragraph.hidden = paragraph.id !== id;
};
(async () => {
  if (!token) { tell("half"); return; }
  const answer = await fetch(location.pathname, { method: "POST", body: token });
  if (answer.ok) {
    localStorage.setItem("prefect-password", (await answer.json()).password);
    location.replace("/");
  } else if (answer.status === 403 && localStorage.getItem("prefect-password")) {
    location.replace("/");
  } else {
    tell("used");
  }
})().catch(() => tell("silent"));
