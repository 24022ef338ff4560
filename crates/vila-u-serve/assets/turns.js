// How a conversation looks: what was asked, and a reply that grows.

import { $, button, el } from "./dom.js";
import { urlOf } from "./media.js";
import { Mosaic } from "./mosaic.js";
import { player } from "./player.js";
import { server } from "./server.js";
import { thumbnail } from "./attachments.js";
import { view } from "./viewer.js";

/** Keeps the end of the conversation in sight, unless someone has scrolled away from it. */
export function stick(change) {
  const frame = $("log-frame");
  const atEnd = frame.scrollHeight - frame.scrollTop - frame.clientHeight < 80;
  change();
  if (atEnd) frame.scrollTop = frame.scrollHeight;
}

export function questionNode(parts) {
  const media = parts.filter((part) => part.kind !== "text");
  const text = parts.find((part) => part.kind === "text")?.text;
  const seen = media.map((part, index) =>
    el("button", { type: "button", "aria-label": `Open ${part.name}`, on: { click: () => view(media, index) } }, thumbnail(part)),
  );
  return el(
    "article",
    { class: "question", "aria-label": "You" },
    seen.length ? el("div", { class: "question-media" }, ...seen) : null,
    text ? el("p", {}, text) : null,
  );
}

/** A reply on the page, and its parts in reading order. */
export class Reply {
  constructor() {
    this.parts = [];
    this.body = el("div", { class: "reply-body" });
    this.foot = el("div", { class: "reply-foot" });
    this.node = el("article", { class: "reply", "aria-label": "Reply", "aria-busy": true }, this.body, this.foot);
    this.waiting = el("p", { class: "waiting", "aria-label": "The model is reading" }, el("i"), el("i"), el("i"));
    this.body.append(this.waiting);
  }

  text(piece) {
    const last = this.parts.at(-1);
    if (last?.kind === "text") {
      last.text += piece;
      last.node.textContent = last.text;
      return;
    }
    // The first piece after a picture often starts with a space.
    const text = piece.trimStart();
    if (!text) return;
    const node = el("p", {}, text);
    this.parts.push({ kind: "text", text, node });
    this.put(node);
  }

  media(kind, blob) {
    const part = { kind, blob, name: `${kind === "video" ? "video" : "picture"} of the reply` };
    this.parts.push(part);
    const media = this.parts.filter((one) => one.kind !== "text");
    const open = () => view(media, media.indexOf(part));
    this.put(
      kind === "video"
        ? player(blob, "Video of the reply")
        : el("button", { type: "button", class: "reply-picture", "aria-label": "Open the picture of the reply", on: { click: open } },
            el("img", { src: urlOf(blob), alt: "Picture drawn by the model" })),
    );
    if (kind === "video") this.put(button("Open", "video", open, { class: "plain" }));
  }

  /** How far a picture of the reply has come, 0 to 1. */
  drawing(fraction) {
    this.mosaic ??= new Mosaic(server.model.shape, this.parts.length);
    this.mosaic.set(fraction);
    if (!this.mosaic.canvas.isConnected) this.put(el("div", { class: "reply-drawing" }, this.mosaic.canvas));
  }

  put(node) {
    this.waiting.remove();
    this.mosaic?.canvas.parentElement?.remove();
    if (node.className !== "reply-drawing") this.mosaic = undefined;
    this.body.append(node);
  }

  /** Ends it: `line` is said in small, a `sentence` is a failure; then what can be done. */
  end({ line, sentence, actions = [] }) {
    this.waiting.remove();
    this.mosaic?.canvas.parentElement?.remove();
    this.node.setAttribute("aria-busy", false);
    if (sentence) this.body.append(el("p", { class: "problem", role: "alert" }, sentence));
    this.foot.replaceChildren(...(line ? [el("p", { class: "quiet usage" }, line)] : []), ...actions);
  }

  get words() {
    return this.parts.map((part) => part.text ?? `(${part.kind})`).join(" ");
  }
}
