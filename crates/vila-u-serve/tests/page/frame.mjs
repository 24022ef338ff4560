// What all tabs share: keyboard, names, the key, a server that goes away, narrow screens.

import { accessible, check, fits, ready, tab, until } from "./browser.mjs";
import { QUESTION, replied } from "./chat.mjs";

const KEY = "the right key";

export const frame = [
  async function tabsByKeyboard({ page }) {
    await page.locator("#tab-chat").focus();
    for (const [key, name] of [["ArrowRight", "create"], ["ArrowRight", "inside"], ["ArrowRight", "chat"], ["End", "inside"], ["Home", "chat"], ["ArrowLeft", "inside"]]) {
      await page.keyboard.press(key);
      await page.locator(`#panel-${name}`).waitFor();
      check(await page.locator(`#tab-${name}`).evaluate((node) => node === document.activeElement), `${key} does not go to ${name}.`);
    }
    await page.keyboard.press("ArrowRight");
    // From the tabs into the panel and on to its field, never by the pointer.
    await until(page, () => !document.querySelector("#panel-chat").hidden);
    for (let presses = 0; presses < 20; presses += 1) {
      await page.keyboard.press("Tab");
      if (await page.locator("#message").evaluate((node) => node === document.activeElement)) break;
    }
    await page.keyboard.type(QUESTION);
    await page.keyboard.press("Enter");
    await replied(page, 1);
    await page.locator("#chat-new").click();
  },

  async function theme({ page }) {
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await background();
    await page.getByRole("button", { name: "Dark theme" }).click();
    check((await background()) !== light, "The theme does not change.");
    await page.reload();
    await ready(page);
    check((await background()) !== light, "The theme is forgotten.");
    await page.getByRole("button", { name: "Dark theme" }).click();
    check((await background()) === light, "The theme does not change back.");
  },

  async function asksForTheKey({ page, failing }) {
    await failing(async () => {
      await page.route("**/v1/models", (route) =>
        route.request().headers().authorization === `Bearer ${KEY}`
          ? route.continue()
          : route.fulfill({ status: 401, json: { error: { message: "Give the API key." } } }),
      );
      await page.reload();
      await page.locator("#key").waitFor();
      await page.locator("#key").fill("a wrong key");
      await page.keyboard.press("Enter");
      await page.locator("#key-problem", { hasText: "does not take this key" }).waitFor();
      await accessible(page, "the key's form");
      await page.locator("#key").fill(KEY);
      await page.keyboard.press("Enter");
      await ready(page);
      check(await page.locator("#key-form").isHidden(), "The key's form stays.");
      await page.unroute("**/v1/models");
      await page.evaluate(() => sessionStorage.clear());
      await page.reload();
      await ready(page);
    });
  },

  async function survivesTheServer({ page, failing, server, context }) {
    await tab(page, "chat");
    const leave = () => (server.command ? server.stop() : context.setOffline(true));
    const comeBack = () => (server.command ? server.start() : context.setOffline(false));
    await failing(async () => {
      await leave();
      await page.locator("#message").fill(QUESTION);
      await page.keyboard.press("Enter");
      await page.locator(".reply", { hasText: "The server does not answer." }).waitFor();
      await page.locator("#lost").waitFor();
      await accessible(page, "the page without its server");
      await comeBack();
      // By itself, nobody presses anything.
      await ready(page);
    });
    check(await page.locator("#lost").isHidden(), "The sentence stays although the server is back.");
    await page.locator(".reply").getByRole("button", { name: "Again" }).click();
    await until(page, () => {
      const reply = document.querySelector(".reply");
      return reply.getAttribute("aria-busy") === "false" && !reply.querySelector(".problem");
    });
    await page.locator("#chat-new").click();
  },

  async function narrow({ page }) {
    await page.setViewportSize({ width: 360, height: 740 });
    for (const name of ["chat", "create", "inside"]) {
      await tab(page, name);
      await fits(page, name);
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    await tab(page, "chat");
  },
];
