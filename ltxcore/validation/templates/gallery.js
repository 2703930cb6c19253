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
