// What comes back from a picture's codes: the three pictures of the stage, the slider over depths, the cells.

import { el } from "./dom.js";
import { Codes, colourOf, drawMap, drawMarks } from "./codes.js";

/** A picture or a map with an overlay for marks. */
function pane(media, title, id) {
  const marks = el("canvas", { class: "marks", "aria-hidden": true });
  const caption = el("figcaption", { id }, title);
  const frame = el("div", { class: "frame" }, media, marks);
  return { node: el("figure", {}, frame, caption), media, marks, caption, frame };
}

const png = (base64) => `data:image/png;base64,${base64}`;

export class Depths {
  /** `answer` is that of /v1/reconstruct; `original` the address of the picture itself. */
  constructor(answer, original) {
    this.answer = answer;
    this.codes = new Codes(answer.codes, answer.codebook_size);
    this.depth = this.codes.depths;
    this.how = "which";
    this.cell = undefined;
    this.pinned = false;

    this.original = pane(el("img", { src: answer.original ? png(answer.original) : original, alt: "The picture as the model sees it" }), "As the model sees it");
    this.back = pane(el("img", { alt: "" }), "", "back-caption");
    this.map = pane(el("canvas", { "aria-hidden": true }), "", "map-caption");
    this.panes = [this.original, this.back, this.map];

    const { depths, width, height } = this.codes;
    this.slider = el("input", { type: "range", id: "depth", min: 1, max: depths, step: 1, value: depths });
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.facts = el("p", { class: "depth-facts", id: "depth-facts" });
    this.info = el("div", { class: "cell-info", id: "cell-info", "aria-live": "polite" });
    this.strip = answer.depths.map(({ image, psnr }, index) => this.stripButton(image, psnr, index + 1));

    Object.entries({ tabindex: 0, role: "application", "aria-label": `Codes of ${height} by ${width} positions. Arrow keys move, Escape leaves.`, "aria-describedby": "cell-info" }).forEach(
      ([name, value]) => this.map.frame.setAttribute(name, value),
    );
    this.map.frame.id = "code-map";
    this.listen();
    this.node = el(
      "div",
      { class: "depths" },
      el(
        "div",
        { class: "card depth-slider" },
        el("label", { for: "depth" }, "Codes for each position"),
        this.slider,
        this.facts,
      ),
      el("div", { class: "stage" }, ...this.panes.map((one) => one.node)),
      el(
        "section",
        { class: "card cells", "aria-labelledby": "cells-title" },
        el("header", {}, el("h3", { id: "cells-title" }, "Which codes are where"), this.howSwitch()),
        this.info,
      ),
      el(
        "section",
        { class: "card", "aria-labelledby": "strip-title" },
        el("h3", { id: "strip-title" }, "Depth by depth"),
        el("div", { class: "strip" }, ...this.strip.map((one) => one.node)),
      ),
    );
    this.show(depths);
  }

  stripButton(image, psnr, depth) {
    const map = el("canvas", { "aria-hidden": true });
    const node = el(
      "button",
      { type: "button", on: { click: () => this.show(depth) } },
      el("span", { class: "strip-pair" }, el("img", { src: png(image), alt: "" }), map),
      el("span", {}, el("span", { class: "hidden-label" }, "Depth "), `${depth}`),
      el("span", { class: "quiet" }, `${psnr.toFixed(1)} dB`),
    );
    return { node, map };
  }

  howSwitch() {
    const choice = (value, words) => {
      const input = el("input", { type: "radio", name: "how", value });
      input.checked = value === this.how;
      input.addEventListener("change", () => {
        this.how = value;
        this.show(this.depth);
      });
      return el("label", {}, input, el("span", {}, words));
    };
    return el(
      "div",
      { class: "switch small", role: "radiogroup", "aria-label": "Colours of the map" },
      choice("which", "Each code"),
      choice("often", "How often"),
    );
  }

  /** Shows the first `depth` codes of each position. */
  show(depth) {
    this.depth = depth;
    const { codes } = this;
    const { image, psnr, ssim } = this.answer.depths[depth - 1];
    this.slider.value = depth;
    this.slider.setAttribute("aria-valuetext", `${depth} of ${codes.depths}, ${psnr.toFixed(1)} decibels`);
    this.back.media.src = png(image);
    this.back.media.alt = `What comes back from ${depth} of ${codes.depths} codes`;
    const which = depth === 1 ? "the first code" : depth === codes.depths ? `all ${depth} codes` : `the first ${depth} codes`;
    this.back.caption.textContent = `Back from ${which}`;
    this.map.caption.textContent = `Codes at depth ${depth}${this.how === "often" ? ", dark where common" : ""}`;
    const similar = ssim === undefined ? "" : ` · SSIM ${ssim.toFixed(3)}`;
    this.facts.replaceChildren(
      el("strong", {}, `${depth} of ${codes.depths}`),
      ` · PSNR ${psnr.toFixed(2)} dB${similar} · ${codes.counts[depth - 1].size} different codes at depth ${depth}`,
    );
    drawMap(this.map.media, codes, depth - 1, this.how);
    this.strip.forEach(({ node, map }, index) => {
      node.setAttribute("aria-pressed", index === depth - 1);
      drawMap(map, codes, index, this.how);
    });
    this.mark();
  }

  listen() {
    for (const { frame } of this.panes) {
      const cellAt = (event) => {
        const box = frame.getBoundingClientRect();
        const along = (at, from, size, cells) => Math.min(cells - 1, Math.max(0, Math.floor(((at - from) / size) * cells)));
        return {
          x: along(event.clientX, box.left, box.width, this.codes.width),
          y: along(event.clientY, box.top, box.height, this.codes.height),
        };
      };
      frame.addEventListener("pointermove", (event) => {
        if (!this.pinned && event.pointerType !== "touch") this.point(cellAt(event));
      });
      frame.addEventListener("pointerleave", () => {
        if (!this.pinned && document.activeElement !== this.map.frame) this.point(undefined);
      });
      // A tap or a click holds a position; the same again lets it go.
      frame.addEventListener("click", (event) => {
        const cell = cellAt(event);
        const same = this.pinned && cell.x === this.cell?.x && cell.y === this.cell?.y;
        this.pinned = !same;
        this.point(same ? undefined : cell);
      });
    }
    this.map.frame.addEventListener("focus", () => this.point(this.cell ?? { x: 0, y: 0 }));
    this.map.frame.addEventListener("blur", () => {
      if (!this.pinned) this.point(undefined);
    });
    this.map.frame.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") this.map.frame.blur();
    if (!way) return;
    event.preventDefault();
    const { x, y } = this.cell ?? { x: 0, y: 0 };
    const within = (at, cells) => Math.min(cells - 1, Math.max(0, at));
    this.point({ x: within(x + way[0], this.codes.width), y: within(y + way[1], this.codes.height) });
  }

  point(cell) {
    if (cell?.x === this.cell?.x && cell?.y === this.cell?.y) return;
    this.cell = cell;
    this.mark();
  }

  mark() {
    const { codes, cell, depth } = this;
    for (const { marks } of this.panes) drawMarks(marks, codes, depth - 1, cell);
    if (!cell) {
      this.info.replaceChildren(el("p", { class: "quiet" }, "Point at a position, or use the arrow keys on the map: its codes appear here, and every position with the same code stays bright."));
      return;
    }
    const chips = codes.grid[cell.y][cell.x].map((code, index) => {
      const swatch = el("i", { "aria-hidden": true });
      swatch.style.background = colourOf(code);
      const uses = codes.uses(code, index);
      return el(
        "li",
        { class: index === depth - 1 ? "now" : "" },
        swatch,
        el("b", {}, String(code)),
        el("span", { class: "quiet" }, uses === 1 ? "only here" : `${uses} places`),
      );
    });
    this.info.replaceChildren(
      el("p", { class: "quiet" }, `Row ${cell.y + 1}, column ${cell.x + 1}: its codes from the coarsest to the finest.`),
      el("ol", { class: "chips" }, ...chips),
    );
  }
}
