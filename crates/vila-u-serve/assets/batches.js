// What one press of Generate made: its prompt, how far it is, its pictures.

import { duration, el, icon, problem } from "./dom.js";
import { urlOf } from "./media.js";
import { Mosaic } from "./mosaic.js";
import { seedOf, view } from "./viewer.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** A finished picture or video, as a button that opens it. */
function face(item, open) {
  const media =
    item.kind === "video"
      ? el("video", { src: urlOf(item.blob), preload: "auto", playsinline: true, "aria-hidden": true })
      : el("img", { src: urlOf(item.blob), alt: "" });
  const node = el(
    "button",
    { type: "button", class: "tile", "aria-label": `Open ${item.kind} of ${item.prompt}, seed ${seedOf(item)}`, on: { click: open } },
    media,
    item.kind === "video" ? el("span", { class: "badge" }, icon("play")) : null,
  );
  if (item.kind === "video") {
    media.muted = true;
    media.loop = true;
    const start = () => !calm.matches && media.play().catch(() => {});
    for (const event of ["pointerenter", "focus"]) node.addEventListener(event, start);
    for (const event of ["pointerleave", "blur"]) node.addEventListener(event, () => media.pause());
  }
  return node;
}

export class Batch {
  /** `settings` are `{prompt, kind, cfg, temperature, model}`. */
  constructor(settings) {
    this.settings = settings;
    this.items = [];
    this.grid = el("ul", { class: "tiles" });
    this.bar = el("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.line = el("p", { class: "quiet" });
    this.progress = el("div", { class: "batch-progress", hidden: true }, this.bar, this.line);
    this.failure = el("p", { class: "problem", role: "alert", hidden: true });
    const made = [settings.kind === "video" ? "video" : null, `guidance ${settings.cfg}`, `temperature ${settings.temperature}`, settings.model];
    this.facts = el("p", { class: "quiet" }, made.filter(Boolean).join(" · "));
    this.node = el(
      "section",
      { class: "batch", "aria-label": settings.prompt },
      el("header", {}, el("h2", {}, settings.prompt), this.facts),
      this.progress,
      this.failure,
      this.grid,
    );
  }

  /** Makes room for `count` that are still to come. */
  expect(count, shape) {
    this.started = performance.now();
    this.progress.hidden = false;
    this.slots = Array.from({ length: count }, (_, index) => {
      const mosaic = new Mosaic(shape, index);
      const frame = el("div", { class: "tile" }, mosaic.canvas);
      const node = el("li", {}, frame, el("span", { class: "quiet" }, "\u00a0"));
      this.grid.append(node);
      return { mosaic, frame, node, done: 0, total: 0 };
    });
    this.report();
  }

  /** Slot `index` has `done` of `total` tokens, or per cent. */
  advance(index, done, total) {
    const slot = this.slots[index];
    if (!slot || slot.finished) return;
    Object.assign(slot, { done, total });
    slot.mosaic.set(total ? done / total : 0);
    this.report();
  }

  /** What slot `index` looks like so far. */
  preview(index, blob) {
    const slot = this.slots[index];
    if (!slot || slot.finished) return;
    // A picture that is drawn over many times would pile up addresses; each is given back.
    const url = URL.createObjectURL(blob);
    const image = el("img", { src: url, alt: "" });
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    slot.frame.replaceChildren(image);
  }

  /** Slot `index` is done; without one (from the history) the item is added at the end. */
  add(item, index) {
    const at = this.items.push(item) - 1;
    const parts = [face(item, () => view(this.items, at)), el("span", { class: "quiet" }, `seed ${seedOf(item)}`)];
    const slot = this.slots?.[index];
    if (!slot) {
      this.grid.append(el("li", {}, ...parts));
      return;
    }
    slot.finished = true;
    slot.done = slot.total;
    slot.node.replaceChildren(...parts);
    this.report();
  }

  /** The bar, the rate and the time left. */
  report() {
    const fraction = this.slots.reduce((sum, slot) => sum + (slot.finished ? 1 : slot.total ? slot.done / slot.total : 0), 0) / this.slots.length;
    const seconds = (performance.now() - this.started) / 1000;
    const tokens = this.slots.reduce((sum, slot) => sum + slot.done, 0);
    const words = [fraction ? `${this.items.length} of ${this.slots.length} done` : "Waiting for the first token"];
    if (this.settings.kind === "image" && tokens && seconds > 0.3) words.push(`${Math.round(tokens / seconds)} tokens/s`);
    if (fraction > 0.03 && fraction < 1) words.push(`${duration((seconds / fraction) * (1 - fraction))} left`);
    this.bar.value = fraction;
    this.line.textContent = words.join(" · ");
  }

  /** Ends it: slots that got nothing go, a `sentence` says why. */
  end(sentence, line) {
    for (const slot of this.slots) if (!slot.finished) slot.node.remove();
    const seconds = (performance.now() - this.started) / 1000;
    this.bar.remove();
    this.progress.hidden = !line;
    this.line.textContent = line ?? "";
    if (!line && !sentence) this.facts.append(` · ${seconds.toFixed(1)} s`);
    problem(this.failure, sentence);
  }
}
