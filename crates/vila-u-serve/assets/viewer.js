// One picture or video, large, with what made it and what can be done with it.

import { $, announce, button, download, el, icon } from "./dom.js";
import { urlOf } from "./media.js";
import { frameOf, player } from "./player.js";
import { show as showTab } from "./tabs.js";

let items = [];
let at = 0;

/** Sends an item elsewhere: "again" to Create, "ask" to Chat, "look" to Look inside. */
function send(what, tab, detail) {
  $("viewer").close();
  showTab(tab);
  document.dispatchEvent(new CustomEvent(what, { detail }));
}

/** "7", or "7, no. 2" for the second picture of a seed. */
export const seedOf = (item) => (item.number ? `${item.seed}, no. ${item.number + 1}` : `${item.seed}`);

const nameOf = (item) => {
  const words = (item.prompt ?? item.name ?? "picture").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  const ending = { "video/mp4": "mp4", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif" }[item.blob.type] ?? "png";
  return `${words || "picture"}${item.seed === undefined ? "" : `-${item.seed}`}${item.number ? `-${item.number + 1}` : ""}.${ending}`;
};

function facts(item) {
  const rows = [
    ["Seed", item.seed === undefined ? undefined : seedOf(item)],
    ["Guidance", item.cfg],
    ["Temperature", item.temperature],
    ["Model", item.model],
  ].filter(([, value]) => value !== undefined);
  return el("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

async function look(item) {
  const video = $("viewer").querySelector("video");
  const blob = item.kind === "video" ? await frameOf(video) : item.blob;
  send("look", "inside", { kind: "image", blob, name: nameOf(item) });
}

function actions(item) {
  return el(
    "div",
    { class: "actions" },
    button("Download", "save", () => download(item.blob, nameOf(item))),
    item.seed !== undefined && item.prompt ? button("Again with this seed", "seed", () => send("again", "create", item)) : null,
    button(`Ask about this ${item.kind === "video" ? "video" : "picture"}`, "ask", () =>
      send("ask", "chat", { kind: item.kind, blob: item.blob, name: nameOf(item) }),
    ),
    button(item.kind === "video" ? "Look inside this frame" : "Look inside", "inside", () => look(item)),
  );
}

function turn(way) {
  at = (at + way + items.length) % items.length;
  draw();
  announce(`${at + 1} of ${items.length}`);
}

function draw() {
  const item = items[at];
  const title = item.prompt ?? item.name ?? "Picture of the reply";
  const media =
    item.kind === "video" ? player(item.blob, title) : el("img", { class: "exact", src: urlOf(item.blob), alt: title });
  const several = items.length > 1;
  const step = (way, label, name) =>
    el("button", { type: "button", class: "plain", "aria-label": label, on: { click: () => turn(way) } }, icon(name));
  $("viewer").replaceChildren(
    el("div", { class: "viewer-media" }, media),
    el(
      "div",
      { class: "viewer-side" },
      el(
        "div",
        { class: "viewer-top" },
        several ? step(-1, "Previous", "left") : null,
        several ? el("span", { class: "quiet" }, `${at + 1} / ${items.length}`) : null,
        several ? step(1, "Next", "right") : null,
        el("span", { class: "spring" }),
        el("button", { type: "button", class: "plain", "aria-label": "Close", on: { click: () => $("viewer").close() } }, icon("close")),
      ),
      el("h2", { id: "viewer-title" }, title),
      facts(item),
      actions(item),
    ),
  );
}

/** Opens `list[index]`; the arrow keys go through the list. */
export function view(list, index = 0) {
  items = list;
  at = index;
  draw();
  $("viewer").showModal();
}

export function startViewer() {
  const dialog = $("viewer");
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.replaceChildren());
  dialog.addEventListener("keydown", (event) => {
    if (items.length < 2 || event.target.matches("input")) return;
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
    else return;
    if (!dialog.contains(document.activeElement)) dialog.querySelector("button").focus();
  });
}
