// Look inside: depth by depth, the codes, the labels.

import { check, files, give, tab, until } from "./browser.mjs";

export async function lookInside(page) {
  await tab(page, "inside");
  await page.locator("#inside-file").setInputFiles(files.picture);
  await page.locator("#code-map").waitFor();
  await page.locator("#bars li").first().waitFor();
}

export const inside = [
  async function refusesBrokenFiles({ page }) {
    await tab(page, "inside");
    await page.locator("#inside-file").setInputFiles(files.broken);
    await page.locator("#inside-problem", { hasText: "“broken.png” cannot be read" }).waitFor();
  },

  async function showsEveryDepth({ page }) {
    await lookInside(page);
    check(await page.locator("#inside-problem").isHidden(), "The problem stays.");
    const depths = Number(await page.locator("#depth").getAttribute("max"));
    check((await page.locator(".strip button").count()) === depths, "Not every depth is there.");
    await page.locator("#depth").focus();
    await page.keyboard.press("Home");
    await page.locator("#back-caption", { hasText: "Back from the first code" }).waitFor();
    const facts = await page.locator("#depth-facts").innerText();
    check(/1 of \d+ · PSNR \d+\.\d+ dB/.test(facts), `The facts are: ${facts}`);
    const coarse = await page.locator("figure img").nth(1).getAttribute("src");
    await page.locator(".strip button").last().click();
    check((await page.locator("figure img").nth(1).getAttribute("src")) !== coarse, "All depths look the same.");
  },

  async function showsTheCodes({ page }) {
    const depths = Number(await page.locator("#depth").getAttribute("max"));
    await page.locator("#code-map").hover({ position: { x: 20, y: 20 } });
    await page.locator("#cell-info", { hasText: /Row [12], column [12]:/ }).waitFor();
    check((await page.locator(".chips li").count()) === depths, "A position does not show all of its codes.");
    await page.locator("h2:visible").first().hover();
    await page.locator("#cell-info", { hasText: "Point at a position" }).waitFor();
    await page.locator("#code-map").focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    await page.locator("#cell-info", { hasText: "Row 2, column 2" }).waitFor();
    await page.locator("input[name=how][value=often]").check();
  },

  async function matchesLabels({ page }) {
    await page.locator("#labels").fill("one");
    await page.locator("#classify").click();
    await page.getByText("Give at least two labels").waitFor();
    await page.locator("#labels").fill("a dog, a red heart, a tree");
    await page.locator("#classify").click();
    await until(page, () => document.querySelectorAll("#bars li").length === 3);
    const values = (await page.locator(".bar-value").allInnerTexts()).map((text) => parseFloat(text));
    check(values[0] >= values[1] && values[1] >= values[2], "The labels are not sorted.");
  },

  async function takesAnother({ page }) {
    await page.locator("#inside-another").click();
    await page.locator("#drop").waitFor();
    await give(page, "drop", "#panel-inside", { ...files.picture, name: "dropped.png" });
    await page.locator("#inside-title", { hasText: "dropped.png" }).waitFor();
  },
];
