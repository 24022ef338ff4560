// The pictures and videos that go with the next message.

import { $, announce, el, icon, problem } from "./dom.js";
import { acceptDrops, filesOf, readMedia, urlOf } from "./media.js";

const MOST = 16;

let attached = [];

export function thumbnail(media) {
  const face =
    media.kind === "video"
      ? el("video", { src: urlOf(media.blob), preload: "auto", playsinline: true, "aria-label": media.name })
      : el("img", { src: urlOf(media.blob), alt: media.name });
  if (media.kind === "video") face.muted = true;
  // An animated GIF or WebP is a video to the model and a picture to the browser.
  if (media.kind === "video" && media.blob.type.startsWith("image/")) return el("img", { src: urlOf(media.blob), alt: media.name });
  return face;
}

function draw() {
  const items = attached.map((media) =>
    el(
      "li",
      {},
      thumbnail(media),
      el(
        "button",
        { type: "button", class: "detach", "aria-label": `Remove ${media.name}`, on: { click: () => detach(media) } },
        icon("close"),
      ),
    ),
  );
  $("attachments").replaceChildren(...items);
  $("attachments").hidden = attached.length === 0;
}

function detach(media) {
  attached = attached.filter((one) => one !== media);
  draw();
  $("message").focus();
}

export function attach(media) {
  if (attached.length >= MOST) {
    problem($("attach-problem"), `A message may have ${MOST} pictures and videos. Remove one first.`);
    return;
  }
  attached.push(media);
  problem($("attach-problem"));
  draw();
  announce(`${media.name} is attached.`);
}

async function attachFiles(files) {
  problem($("attach-problem"));
  const refused = [];
  for (const file of files) {
    try {
      attach(await readMedia(file));
    } catch (error) {
      refused.push(error.message);
    }
  }
  if (refused.length) problem($("attach-problem"), refused.join(" "));
}

/** Takes what is attached away, for a message. */
export function takeAttached() {
  const taken = attached;
  attached = [];
  problem($("attach-problem"));
  draw();
  return taken;
}

export const anyAttached = () => attached.length > 0;

export function startAttachments() {
  $("attach").addEventListener("click", () => $("attach-file").click());
  $("attach-file").addEventListener("change", () => {
    attachFiles([...$("attach-file").files]);
    $("attach-file").value = "";
  });
  acceptDrops($("panel-chat"), attachFiles);
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if ($("panel-chat").hidden || files.length === 0) return;
    event.preventDefault();
    attachFiles(files);
  });
}
