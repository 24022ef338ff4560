// Chat: a conversation with pictures and videos in both directions.

import { $, announce, button, el, numberIn, problem, randomSeed } from "./dom.js";
import { events } from "./api.js";
import { server } from "./server.js";
import { blobOfDataUrl, dataUrl } from "./media.js";
import { anyAttached, attach, startAttachments, takeAttached } from "./attachments.js";
import { examplePicture, EXAMPLE_PICTURE, offer, questions } from "./examples.js";
import { questionNode, Reply, stick } from "./turns.js";
import { ornament } from "./mosaic.js";
import { startPopover } from "./popover.js";

/** `{question: parts, reply: Reply, nodes}` of the conversation so far. */
let exchanges = [];
let running;

async function contentOf(parts) {
  if (parts.every((part) => part.kind === "text")) return parts.map((part) => part.text).join("\n");
  return Promise.all(
    parts.map(async (part) => {
      if (part.kind === "text") return { type: "text", text: part.text };
      const url = await dataUrl(part.blob);
      return part.kind === "video" ? { type: "video_url", video_url: { url } } : { type: "image_url", image_url: { url } };
    }),
  );
}

/** The messages up to an exchange's question; questions that got no reply are left out. */
async function messagesFor(exchange) {
  const messages = [];
  for (const before of exchanges.slice(0, exchanges.indexOf(exchange))) {
    if (before.reply.parts.length === 0) continue;
    messages.push({ role: "user", content: await contentOf(before.question) });
    messages.push({ role: "assistant", content: await contentOf(before.reply.parts) });
  }
  messages.push({ role: "user", content: await contentOf(exchange.question) });
  return messages;
}

async function bodyFor(exchange, seed) {
  const body = { model: server.model?.id ?? "vila-u", messages: await messagesFor(exchange), seed };
  const temperature = numberIn($("chat-temperature"));
  const most = numberIn($("chat-max"));
  if (temperature !== undefined) body.temperature = temperature;
  if (most !== undefined) body.max_completion_tokens = most;
  if ($("chat-visual").checked) body.modalities = ["text", "image"];
  return { ...body, stream: true, stream_options: { include_usage: true } };
}

function usageLine({ usage, started, first, ended, seed, reason }) {
  const parts = [];
  if (usage) {
    parts.push(`${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written`);
    const seconds = (ended - first) / 1000;
    if (first && usage.completion_tokens > 1 && seconds > 0.05) parts.push(`${Math.round(usage.completion_tokens / seconds)} tokens/s`);
  }
  if (first) parts.push(`first after ${((first - started) / 1000).toFixed(2)} s`);
  if (reason === "length") parts.push("cut at its longest");
  parts.push(`seed ${seed}`);
  return parts.join(" · ");
}

function takeImages(reply, images) {
  for (const image of images) {
    const url = image.image_url?.url ?? image.video_url?.url ?? "";
    const blob = blobOfDataUrl(url);
    if (blob) reply.media(image.type === "video_url" ? "video" : "image", blob);
  }
}

function setRunning(controller) {
  running = controller;
  const busy = running !== undefined;
  const focused = [$("chat-stop"), $("send")].includes(document.activeElement);
  $("chat-stop").hidden = !busy;
  $("send").hidden = busy;
  $("chat-new").hidden = exchanges.length === 0;
  if (focused) (busy ? $("chat-stop") : $("message")).focus();
}

async function answer(exchange) {
  const reply = exchange.reply;
  const controller = new AbortController();
  setRunning(controller);
  const run = { started: performance.now(), seed: numberIn($("chat-seed")) ?? randomSeed() };
  const end = { actions: [button("Again", "again", () => again(exchange), { class: "plain" })] };
  try {
    for await (const { data } of events("v1/chat/completions", await bodyFor(exchange, run.seed), controller.signal)) {
      stick(() => take(reply, data, run));
    }
    run.ended = performance.now();
    if (run.reason) end.line = usageLine(run);
    else end.sentence = "The answer broke off. Try again.";
    if (run.reason && reply.parts.length === 0) end.sentence = "The model had nothing to say. Ask in other words.";
    announce(reply.words);
  } catch (error) {
    if (error.name === "AbortError") end.line = "Stopped.";
    else end.sentence = error.message;
  }
  setRunning(undefined);
  stick(() => reply.end(end));
}

function take(reply, data, run) {
  if (data.usage) run.usage = data.usage;
  if (data.progress) reply.drawing(data.progress.done / data.progress.total);
  const choice = data.choices?.[0];
  if (!choice) return;
  const { content, images } = choice.delta ?? {};
  if (content || images?.length) run.first ??= performance.now();
  if (content) reply.text(content);
  if (images?.length) takeImages(reply, images);
  if (choice.finish_reason) run.reason = choice.finish_reason;
}

function ask(question) {
  const exchange = { question, reply: new Reply() };
  exchanges.push(exchange);
  $("welcome").hidden = true;
  $("log").append(questionNode(question), exchange.reply.node);
  $("log-frame").scrollTop = $("log-frame").scrollHeight;
  // Only the last reply can be had again: those after it build on it.
  for (const before of exchanges.slice(0, -1)) before.reply.foot.querySelector("button")?.remove();
  answer(exchange);
}

function again(exchange) {
  if (running) return;
  const reply = new Reply();
  exchange.reply.node.replaceWith(reply.node);
  exchange.reply = reply;
  $("message").focus();
  answer(exchange);
}

function send() {
  const text = $("message").value.trim();
  if (running) return;
  if (!text && !anyAttached()) {
    problem($("attach-problem"), "Write a question, or attach a picture to ask about.");
    return;
  }
  const question = [...takeAttached(), ...(text ? [{ kind: "text", text }] : [])];
  $("message").value = "";
  grow();
  ask(question);
}

function fresh() {
  running?.abort();
  exchanges = [];
  $("log").replaceChildren();
  $("welcome").hidden = false;
  $("chat-new").hidden = true;
  $("message").focus();
  announce("New chat.");
}

function grow() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 200)}px`;
}

async function tryExample({ text, picture }) {
  if (running) return;
  try {
    ask([...(picture ? [await examplePicture()] : []), { kind: "text", text }]);
  } catch (error) {
    problem($("attach-problem"), error.message);
  }
}

export function startChat() {
  startAttachments();
  ornament($("chat-art"));
  startPopover($("chat-settings-open"), $("chat-settings"));
  const face = ({ text, picture }) => [picture ? el("img", { src: EXAMPLE_PICTURE, alt: "", width: 28, height: 28 }) : "", text];
  offer($("chat-examples"), () => questions, face, tryExample);

  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("message").addEventListener("input", grow);
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("chat-stop").addEventListener("click", () => running?.abort());
  $("chat-new").addEventListener("click", fresh);
  $("panel-chat").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.defaultPrevented) running?.abort();
  });
  document.addEventListener("ask", ({ detail }) => {
    attach(detail);
    $("message").focus();
  });
  server.addEventListener("change", () => {
    const draws = server.model?.generates.includes("image") ?? true;
    $("chat-visual").closest("label").hidden = !draws;
    if (!draws) $("chat-visual").checked = false;
  });
}
