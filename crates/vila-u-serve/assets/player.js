// A video with its own controls: play, a slider over its frames, repeat.

import { el, icon } from "./dom.js";
import { urlOf } from "./media.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

function toggle(iconName, label, onClick) {
  return el("button", { type: "button", class: "plain", "aria-label": label, on: { click: onClick } }, icon(iconName));
}

/** The player of a blob; `label` says what it shows. */
export function player(blob, label, { autoplay = true } = {}) {
  const video = el("video", { src: urlOf(blob), playsinline: true, preload: "auto", "aria-label": label });
  video.muted = true;
  video.loop = true;
  video.autoplay = autoplay && !calm.matches;

  const play = toggle("play", "Play", () => (video.paused ? video.play().catch(() => {}) : video.pause()));
  const repeat = toggle("loop", "Repeat", () => {
    video.loop = !video.loop;
    repeat.setAttribute("aria-pressed", video.loop);
  });
  repeat.setAttribute("aria-pressed", true);
  const scrub = el("input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Position in the video" });

  const showTime = () => {
    if (video.duration) scrub.value = video.currentTime / video.duration;
    scrub.setAttribute("aria-valuetext", `${video.currentTime.toFixed(1)} of ${(video.duration || 0).toFixed(1)} seconds`);
  };
  const follow = () => {
    showTime();
    if (!video.paused && video.isConnected) requestAnimationFrame(follow);
  };
  const showState = () => {
    play.replaceChildren(icon(video.paused ? "play" : "pause"));
    play.setAttribute("aria-label", video.paused ? "Play" : "Pause");
    follow();
  };
  scrub.addEventListener("input", () => {
    video.pause();
    if (video.duration) video.currentTime = scrub.value * video.duration;
  });
  scrub.addEventListener("keydown", (event) => {
    // One step is a frame or so, not the hundredth that browsers take.
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    scrub.value = Number(scrub.value) + way / 8;
    scrub.dispatchEvent(new Event("input"));
  });
  for (const event of ["play", "pause", "loadedmetadata"]) video.addEventListener(event, showState);
  video.addEventListener("seeked", showTime);

  const broken = el("p", { class: "problem", hidden: true }, "This browser cannot play the video. Download it to see it elsewhere.");
  video.addEventListener("error", () => (broken.hidden = false));
  return el("div", { class: "player" }, video, broken, el("div", { class: "player-bar" }, play, scrub, repeat));
}

/** The frame that a video shows, as a PNG. */
export function frameOf(video) {
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
