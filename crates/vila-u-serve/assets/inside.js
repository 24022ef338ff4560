// Look inside: a picture, what comes back from its codes, and what it matches.

import { $, announce, button, el, problem } from "./dom.js";
import { json } from "./api.js";
import { acceptDrops, dataUrl, filesOf, readMedia, urlOf } from "./media.js";
import { Depths } from "./depths.js";
import { labelsSection } from "./labels.js";
import { examplePicture, showForNano } from "./examples.js";

let running;

function reset() {
  running?.abort();
  $("inside-result").hidden = true;
  $("inside-result").replaceChildren();
  $("inside-pick").hidden = false;
  $("inside-choose").focus();
}

async function lookAt(media) {
  running?.abort();
  const controller = new AbortController();
  running = controller;
  problem($("inside-problem"));
  $("inside-pick").setAttribute("aria-busy", true);
  announce("Reading the picture.");
  try {
    if (media.kind === "video") throw new Error("Look inside takes pictures. Choose a picture, or a frame of the video.");
    const image = await dataUrl(media.blob);
    const answer = await json("v1/reconstruct", { body: { image }, signal: controller.signal });
    if (running !== controller) return;
    show(media, image, answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    problem($("inside-problem"), error.message);
  } finally {
    if (running === controller) $("inside-pick").setAttribute("aria-busy", false);
  }
}

function show(media, image, answer) {
  const depths = new Depths(answer, urlOf(media.blob));
  const { codes } = depths;
  const size = `${codes.height} × ${codes.width} positions, ${codes.depths} codes each, of ${codes.codebook}`;
  const labels = labelsSection(image);
  $("inside-result").replaceChildren(
    el(
      "header",
      { class: "inside-head" },
      el("div", {}, el("h2", { id: "inside-title", tabindex: -1 }, media.name), el("p", { class: "quiet" }, size)),
      button("Another picture", "image", reset, { id: "inside-another" }),
    ),
    depths.node,
  );
  depths.node.append(labels);
  $("inside-result").hidden = false;
  $("inside-pick").hidden = true;
  $("inside-title").focus();
  announce(`${size}. All of them give back ${answer.depths.at(-1).psnr.toFixed(1)} decibels.`);
  labels.querySelector("form").requestSubmit();
}

async function takeFile(file) {
  if (!file) return;
  try {
    await lookAt(await readMedia(file));
  } catch (error) {
    problem($("inside-problem"), error.message);
  }
}

export function startInside() {
  $("inside-choose").addEventListener("click", () => $("inside-file").click());
  $("inside-file").addEventListener("change", () => {
    takeFile($("inside-file").files[0]);
    $("inside-file").value = "";
  });
  $("inside-example").addEventListener("click", async () => {
    try {
      await lookAt(await examplePicture());
    } catch (error) {
      problem($("inside-problem"), error.message);
    }
  });
  showForNano("inside-example");
  acceptDrops($("panel-inside"), (files) => takeFile(files[0]));
  document.addEventListener("paste", (event) => {
    const [file] = filesOf(event.clipboardData);
    if ($("panel-inside").hidden || !file) return;
    event.preventDefault();
    takeFile(file);
  });
  document.addEventListener("look", ({ detail }) => lookAt(detail));
}
