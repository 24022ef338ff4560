// Elements, icons and announcements. Text always becomes a text node, never markup.

import { icons } from "./icons.js";

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `data`, `on`, anything else an attribute) and children. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", icons[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon and words. */
export function button(words, iconName, onClick, properties = {}) {
  return el("button", { type: "button", on: { click: onClick }, ...properties }, iconName && icon(iconName), el("span", {}, words));
}

/** Puts the icons that the document asks for in front of their words. */
export function fillIcons() {
  for (const node of document.querySelectorAll("[data-icon]")) {
    const words = node.textContent.trim();
    node.textContent = "";
    node.append(icon(node.dataset.icon));
    if (words) node.append(el("span", {}, words));
  }
}

/** Says something to screen readers. */
export function announce(text) {
  const node = $("announcer");
  // The same text again is said again only if it changes.
  node.textContent = node.textContent === text ? `${text}\u00a0` : text;
}

/** Shows a sentence in its place, or takes it away. */
export function problem(node, sentence) {
  node.textContent = sentence ?? "";
  node.hidden = !sentence;
}

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const count = (number) => new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(number);

export function duration(seconds) {
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** The number in a field, or undefined where it is empty. */
export const numberIn = (field) => (field.value.trim() === "" ? undefined : Number(field.value));
