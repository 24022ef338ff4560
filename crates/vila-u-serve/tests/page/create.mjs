// Create: images and videos, one stopped, one again with its seed, the history.

import { check, pixels, ready, tab, until } from "./browser.mjs";

const PROMPT = "a red heart on a blue background";

export async function generate(page, count, { kind = "image", seed = "", prompt = PROMPT } = {}) {
  await tab(page, "create");
  await page.locator(`input[name=kind][value=${kind}]`).check();
  await page.locator("#prompt").fill(prompt);
  await page.locator("#count").fill(`${count}`);
  await page.locator("#seed").fill(`${seed}`);
  await page.locator("#prompt").press("Enter");
}

const finished = (page, count) =>
  until(
    page,
    (wanted) => !document.querySelector("#generate").hidden && document.querySelectorAll(".batch:first-child button.tile").length === wanted,
    count,
  );

export async function generated(page, count, options) {
  await generate(page, count, options);
  await finished(page, count);
}

const newest = (page) => page.locator(".batch").first();

export const create = [
  async function draws({ page }) {
    await generated(page, 2, { seed: 7 });
    check((await newest(page).locator(".problem:visible").count()) === 0, "The batch has a problem.");
    const seeds = await newest(page).locator("li .quiet").allInnerTexts();
    check(seeds[0] === "seed 7" && ["seed 8", "seed 7, no. 2"].includes(seeds[1]), `The seeds are ${seeds}.`);
  },

  async function opensAndDownloads({ page }) {
    await newest(page).locator("button.tile").nth(1).click();
    await page.locator("#viewer[open]").waitFor();
    const saved = page.waitForEvent("download");
    await page.getByRole("button", { name: "Download" }).click();
    const name = (await saved).suggestedFilename();
    check(/^a-red-heart-on-a-blue-background-(8|7-2)\.png$/.test(name), `The download is called ${name}.`);
    await page.keyboard.press("ArrowRight");
    await page.locator(".viewer-top", { hasText: "1 / 2" }).waitFor();
    await page.keyboard.press("ArrowLeft");
    await page.locator(".viewer-top", { hasText: "2 / 2" }).waitFor();
  },

  async function drawsTheSameAgain({ page }) {
    const before = await pixels(page.locator("#viewer img.exact"));
    await page.getByRole("button", { name: "Again with this seed" }).click();
    check((await page.locator("#seed").inputValue()) !== "", "The seed is not in the form.");
    const count = Number(await page.locator("#count").inputValue());
    await page.locator("#generate").click();
    await until(page, () => document.querySelectorAll(".batch").length === 2);
    await finished(page, count);
    const after = await pixels(newest(page).locator("button.tile img").last());
    check(before === after, "The same prompt and seed draw another picture.");
  },

  async function stopsAndGoesOn({ page }) {
    await generate(page, 64);
    await page.locator("#create-stop").waitFor();
    await until(page, () => document.querySelector(".batch progress")?.value > 0);
    await page.locator("#create-stop").click();
    await newest(page).getByText(/^Stopped, \d+ of 64 done/).waitFor();
    check((await page.locator("#panel-create .mosaic").count()) === 0, "Unfinished pictures stay.");
    await generated(page, 1);
  },

  async function saysWhatIsMissing({ page }) {
    await generate(page, 1, { prompt: " " });
    await page.locator("#create-problem", { hasText: "Say what to generate." }).waitFor();
    await generate(page, 65);
    await page.locator("#create-problem", { hasText: "from 1 to 64" }).waitFor();
    await generated(page, 1);
    check(await page.locator("#create-problem").isHidden(), "The problem stays.");
  },

  async function saysWhyItFails({ page, failing }) {
    const message = "The server has too much to do. Try again in 3 s.";
    await failing(async () => {
      await page.route("**/v1/images/generations", (route) => route.fulfill({ status: 429, json: { error: { message } } }));
      await generate(page, 2);
      await newest(page).getByText(message).waitFor();
      await page.unroute("**/v1/images/generations");
    });
  },

  async function makesVideos({ page }) {
    await generated(page, 1, { kind: "video", seed: 1, prompt: "a red heart shrinks on a yellow background" });
    await newest(page).locator("button.tile").click();
    const video = page.locator("#viewer video");
    await until(page, () => document.querySelector("#viewer video").readyState >= 2);
    await until(page, () => !document.querySelector("#viewer video").paused);
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByRole("button", { name: "Play", exact: true }).waitFor();
    await page.getByRole("slider", { name: "Position in the video" }).fill("0.5");
    await until(page, () => {
      const { currentTime, duration } = document.querySelector("#viewer video");
      return Math.abs(currentTime / duration - 0.5) < 0.1;
    });
    await page.getByRole("button", { name: "Repeat" }).click();
    check(!(await video.evaluate((node) => node.loop)), "Repeat cannot be turned off.");
    const saved = page.waitForEvent("download");
    await page.getByRole("button", { name: "Download" }).click();
    check((await saved).suggestedFilename().endsWith(".mp4"), "The download is no MP4 file.");
    await page.getByRole("button", { name: "Look inside this frame" }).click();
    await page.locator("#code-map").waitFor();
  },

  async function asksAboutIt({ page }) {
    await tab(page, "create");
    await newest(page).locator("button.tile").click();
    await page.getByRole("button", { name: "Ask about this video" }).click();
    await page.locator("#attachments li").waitFor();
    await page.locator("#message").fill("What is in this video?");
    await page.locator("#message").press("Enter");
    await until(page, () => document.querySelector(".reply")?.getAttribute("aria-busy") === "false");
    check((await page.locator(".reply .problem").count()) === 0, await page.locator(".reply").innerText());
  },

  async function remembers({ page }) {
    const before = await page.locator("button.tile").count();
    await page.reload();
    await ready(page);
    await tab(page, "create");
    await until(page, (wanted) => document.querySelectorAll("button.tile").length === wanted, before);
    await page.locator("#history-clear").click();
    await page.locator("#gallery-empty").waitFor();
    await page.reload();
    await ready(page);
    await page.locator("#gallery-empty").waitFor();
  },

  async function picturesOfABatchDiffer({ page }) {
    await generated(page, 2, { seed: 7 });
    const [one, other] = [await pixels(newest(page).locator("img").first()), await pixels(newest(page).locator("img").last())];
    check(one !== other, "Two pictures of one batch are the same.");
  },
];
