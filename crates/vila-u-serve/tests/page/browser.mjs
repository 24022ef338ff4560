// A headless Chromium with what the tests need: a page without console errors, files to upload, axe, pictures.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { chromium } from "playwright-core";

const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export function check(condition, sentence) {
  if (!condition) throw new Error(sentence);
}

export const launch = (executablePath) => chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

/** A page of its own context, its errors in `errors`; those of requests that a test makes fail are let through by `failing`. */
export async function open(browser, url, { timeout, ...options }) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(timeout);
  const errors = [];
  let mayFail = false;
  page.on("pageerror", (error) => errors.push(`page error: ${error.stack}`));
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    if (mayFail && /Failed to load resource|net::ERR_/.test(message.text())) return;
    errors.push(`console: ${message.text()} (${message.location().url})`);
  });
  await page.goto(url);
  await ready(page);
  const failing = async (work) => {
    mayFail = true;
    try {
      await work();
    } finally {
      mayFail = false;
    }
  };
  return { context, page, errors, failing };
}

export const ready = (page) => page.locator("#status[data-state=ready]").waitFor();

/** Waits until a function in the page is true. */
export const until = (page, condition, argument) => page.waitForFunction(condition, argument);

export async function tab(page, name) {
  await page.locator(`#tab-${name}`).click();
  await page.locator(`#panel-${name}`).waitFor();
}

/** Accessibility as far as axe sees it: WCAG A and AA, contrast included. */
export async function accessible(page, what) {
  await page.evaluate(axe);
  const violations = await page.evaluate(async () => {
    const found = await window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] });
    return found.violations.map((one) => `${one.id}: ${one.help} at ${one.nodes.map((node) => node.target).join(" | ")}`);
  });
  check(violations.length === 0, `${what}: ${violations.join("\n  ")}`);
}

/** The page is no larger than its window; what is long scrolls inside of it. */
export async function fits(page, what) {
  const { wide, width, high, height } = await page.evaluate(() => {
    const { scrollWidth, scrollHeight } = document.documentElement;
    return { wide: scrollWidth, width: innerWidth, high: scrollHeight, height: innerHeight };
  });
  check(wide <= width && high <= height, `${what} takes ${wide} x ${high} px of ${width} x ${height}.`);
}

/** Drops or pastes a file as a person does. */
export async function give(page, how, selector, file) {
  await page.evaluate(
    ({ how, selector, base64, name, type }) => {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], name, { type }));
      const event =
        how === "paste"
          ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
          : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
      document.querySelector(selector).dispatchEvent(event);
    },
    { how, selector, base64: file.buffer.toString("base64"), name: file.name, type: file.mimeType },
  );
}

export const files = {
  picture: {
    name: "heart.png",
    mimeType: "image/png",
    buffer: fs.readFileSync(path.join(import.meta.dirname, "../../assets/example.png")),
  },
  broken: { name: "broken.png", mimeType: "image/png", buffer: Buffer.from("This is not a picture.") },
  heic: { name: "IMG_0001.HEIC", mimeType: "image/heic", buffer: Buffer.from("ftypheic") },
};

/** The pixels of the picture in an element, to tell whether two are the same. */
export const pixels = (locator) =>
  locator.evaluate(async (image) => {
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
  });
