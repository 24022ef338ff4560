// Every tab at work, on a desk and on a phone, light and dark: checked for names, contrast and width, and pictured.

import fs from "node:fs";
import path from "node:path";
import { accessible, files, fits, open, tab, until } from "./browser.mjs";
import { replied } from "./chat.mjs";
import { generated } from "./create.mjs";
import { lookInside } from "./inside.mjs";

const screens = {
  desktop: { viewport: { width: 1280, height: 800 } },
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

async function fill(page) {
  await page.locator("#message").fill("Draw a red heart on a blue background and say where it is.");
  await page.locator("#message").press("Enter");
  await replied(page, 1);
  await page.locator("#attach-file").setInputFiles([files.picture]);
  await page.locator("#attachments li").waitFor();
  await page.locator("#message").fill("What is in this picture?");
  await page.locator("#message").press("Enter");
  await replied(page, 2);
  await generated(page, 1, { kind: "video", seed: 1, prompt: "a red heart shrinks on a yellow background" });
  await generated(page, 4, { seed: 11, prompt: "an apple on a pink background" });
  await generated(page, 4, { seed: 7, prompt: "a red heart on a blue background" });
  await lookInside(page);
}

export async function shots(browser, url, folder, timeout) {
  const errors = [];
  if (folder) fs.mkdirSync(folder, { recursive: true });
  for (const [screen, options] of Object.entries(screens)) {
    const { page, context, errors: seen } = await open(browser, url, { timeout, reducedMotion: "reduce", ...options });
    const shot = async (name) => {
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        await accessible(page, `${name}, ${screen}, ${colorScheme}`);
        await fits(page, `${name}, ${screen}`);
        if (folder) await page.screenshot({ path: path.join(folder, `${name}-${screen}-${colorScheme}.png`) });
      }
    };
    await shot("welcome");
    await tab(page, "create");
    await shot("create-empty");
    await tab(page, "inside");
    await shot("inside-empty");
    await tab(page, "chat");
    await fill(page);
    await page.locator("#code-map").click({ position: { x: 20, y: 20 } });
    await shot("inside");
    await tab(page, "create");
    await shot("create");
    await page.locator("button.tile").first().click();
    await until(page, () => document.querySelector("#viewer img")?.complete);
    await shot("viewer");
    await page.keyboard.press("Escape");
    await tab(page, "chat");
    await page.locator("#log-frame").evaluate((node) => node.scrollTo(0, node.scrollHeight));
    await shot("chat");
    await page.locator("#chat-settings-open").click();
    await shot("settings");
    errors.push(...seen);
    await context.close();
  }
  return errors;
}
