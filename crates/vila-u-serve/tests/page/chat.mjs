// Chat: answers to words and pictures, pictures in answers, stopping, failing, beginning anew.

import { check, files, give, tab, until } from "./browser.mjs";

/** Needs no picture, and the embedded model has an answer. */
export const QUESTION = "Is a cat an animal?";

const lastReply = (page) => page.locator(".reply").last();

/** Waits for the reply to the question just asked, and returns its words. */
export async function replied(page, count) {
  await page.locator(".reply").nth(count - 1).waitFor();
  await until(page, (at) => document.querySelectorAll(".reply")[at]?.getAttribute("aria-busy") === "false", count - 1);
  return lastReply(page).locator(".reply-body").innerText();
}

async function ask(page, text, count) {
  await page.locator("#message").fill(text);
  await page.keyboard.press("Enter");
  return replied(page, count);
}

export const chat = [
  async function answersWithUsage({ page }) {
    await tab(page, "chat");
    await page.locator("#message").fill("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    check((await page.locator("#message").inputValue()) === "one\ntwo", "Shift+Enter is not a new line.");
    const words = await ask(page, QUESTION, 1);
    check(words.trim() !== "", "The reply is empty.");
    check((await lastReply(page).locator(".problem").count()) === 0, `The reply failed: ${words}`);
    const usage = await lastReply(page).locator(".usage").innerText();
    check(/\d+ tokens read, \d+ written/.test(usage), `No usage: ${usage}`);
  },

  async function readsPictures({ page }) {
    await page.locator("#attach-file").setInputFiles([files.picture]);
    await give(page, "drop", "#panel-chat", { ...files.picture, name: "dropped.png" });
    await give(page, "paste", "#message", { ...files.picture, name: "pasted.png" });
    await until(page, () => document.querySelectorAll("#attachments li").length === 3);
    await page.getByRole("button", { name: "Remove dropped.png" }).click();
    await page.getByRole("button", { name: "Remove pasted.png" }).click();
    const words = await ask(page, "What is in this picture?", 2);
    check(words.trim() !== "" && (await lastReply(page).locator(".problem").count()) === 0, `No answer about a picture: ${words}`);
    check((await page.locator(".question img").count()) === 1, "The question does not show its picture.");
  },

  async function drawsInReplies({ page }) {
    // The embedded model has not learnt to draw later in a conversation.
    await page.locator("#chat-new").click();
    await ask(page, "Draw a red heart on a blue background and say where it is.", 1);
    const picture = lastReply(page).locator(".reply-picture img");
    await picture.waitFor();
    await until(page, () => document.querySelector(".reply-picture img").naturalWidth > 0);
    await picture.click();
    await page.locator("#viewer[open]").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#viewer").waitFor({ state: "hidden" });
  },

  async function regenerates({ page }) {
    const before = await lastReply(page).elementHandle();
    await lastReply(page).getByRole("button", { name: "Again" }).click();
    await until(page, (node) => !node.isConnected, before);
    await replied(page, 1);
    check((await page.locator(".reply").count()) === 1, "Regenerating does not replace the reply.");
  },

  async function stops({ page }) {
    // Held on its way, so that the test does not race the answer.
    await page.route("**/v1/chat/completions", () => {});
    await page.locator("#message").fill("Count to one million.");
    await page.keyboard.press("Enter");
    await page.locator("#chat-stop").waitFor();
    await page.keyboard.press("Escape");
    await lastReply(page).getByText("Stopped.").waitFor();
    await page.unroute("**/v1/chat/completions");
    const words = await ask(page, QUESTION, 3);
    check(words.trim() !== "", "No answer after a stop.");
  },

  async function saysWhyItFails({ page, failing }) {
    const message = "The picture is too large; send one of at most 64 MB.";
    await failing(async () => {
      await page.route("**/v1/chat/completions", (route) =>
        route.fulfill({ status: 413, json: { error: { message, type: "invalid_request_error", param: null, code: null } } }),
      );
      await page.locator("#message").fill(QUESTION);
      await page.locator("#send").click();
      await lastReply(page).getByText(message).waitFor();
      await page.unroute("**/v1/chat/completions");
    });
    await lastReply(page).getByRole("button", { name: "Again" }).click();
    await until(page, () => {
      const reply = [...document.querySelectorAll(".reply")].at(-1);
      return reply.getAttribute("aria-busy") === "false" && !reply.querySelector(".problem");
    });
  },

  async function refusesBrokenFiles({ page }) {
    await page.locator("#attach-file").setInputFiles([files.broken]);
    await page.locator("#attach-problem", { hasText: "“broken.png” cannot be read" }).waitFor();
    await page.locator("#attach-file").setInputFiles([files.heic]);
    await page.locator("#attach-problem", { hasText: "HEIC" }).waitFor();
    check((await page.locator("#attachments li").count()) === 0, "A broken file is attached.");
  },

  async function settingsAreSent({ page }) {
    await page.locator("#chat-settings-open").click();
    await page.locator("#chat-temperature").fill("0.5");
    await page.locator("#chat-max").fill("7");
    await page.locator("#chat-seed").fill("42");
    await page.keyboard.press("Escape");
    await page.locator("#chat-settings").waitFor({ state: "hidden" });
    const count = await page.locator(".reply").count();
    const sent = page.waitForRequest("**/v1/chat/completions");
    await ask(page, QUESTION, count + 1);
    const body = (await sent).postDataJSON();
    check(body.temperature === 0.5 && body.max_completion_tokens === 7 && body.seed === 42, "The settings are not sent.");
    await page.locator("#chat-settings-open").click();
    for (const id of ["#chat-temperature", "#chat-max", "#chat-seed"]) await page.locator(id).fill("");
    await page.keyboard.press("Escape");
  },

  async function beginsAnew({ page }) {
    await page.locator("#chat-new").click();
    await page.locator("#welcome").waitFor();
    check((await page.locator(".reply").count()) === 0, "A new chat is not empty.");
  },
];
