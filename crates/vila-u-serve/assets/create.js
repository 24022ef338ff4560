// Create: images and videos from a prompt, and the history of them.

import { $, announce, el, numberIn, problem, randomSeed } from "./dom.js";
import { server } from "./server.js";
import { Batch } from "./batches.js";
import { images, videos } from "./generate.js";
import { seedOf } from "./viewer.js";
import { offer, prompts } from "./examples.js";
import { ornament } from "./mosaic.js";
import * as history from "./history.js";

const MOST = { image: 64, video: 8 };

let running;

const kind = () => document.querySelector("input[name=kind]:checked").value;

function setRunning(controller) {
  running = controller;
  const busy = running !== undefined;
  const focused = [$("generate"), $("create-stop")].includes(document.activeElement);
  $("generate").hidden = busy;
  $("create-stop").hidden = !busy;
  if (focused) (busy ? $("create-stop") : $("generate")).focus();
}

function settings() {
  const prompt = $("prompt").value.trim();
  const count = Number($("count").value);
  if (!prompt) throw new Error("Say what to generate.");
  if (!(Number.isInteger(count) && count >= 1 && count <= MOST[kind()])) {
    throw new Error(`How many: a number from 1 to ${MOST[kind()]}.`);
  }
  const seed = numberIn($("seed")) ?? randomSeed();
  if (!(Number.isInteger(seed) && seed >= 0)) throw new Error("The seed is a whole number, 0 or more.");
  return {
    prompt,
    kind: kind(),
    count,
    seed,
    cfg: Number($("cfg").value),
    temperature: Number($("temperature").value),
    model: server.model?.id ?? "vila-u",
  };
}

function showBatch(batch) {
  $("gallery-empty").hidden = true;
  $("history-end").hidden = false;
  $("batches").prepend(batch.node);
}

async function generate() {
  if (running) return;
  let asked;
  try {
    asked = settings();
    problem($("create-problem"));
  } catch (error) {
    problem($("create-problem"), error.message);
    return;
  }
  const controller = new AbortController();
  setRunning(controller);
  const { prompt, cfg, temperature, model, count } = asked;
  const batch = new Batch(asked);
  const created = Date.now();
  batch.expect(count, server.model?.shape ?? { width: 16, height: 16 });
  showBatch(batch);
  batch.node.scrollIntoView({ block: "nearest" });
  announce(`Generating ${count} of ${prompt}.`);

  const done = ({ index, seed, number, blob }) => {
    const item = { id: `${created}-${index}`, batch: created, created, index, kind: asked.kind, prompt, seed, number, cfg, temperature, model, blob };
    batch.add(item, index);
    history.keep(item);
  };
  try {
    await (asked.kind === "video" ? videos : images)(asked, batch, controller.signal, done);
    batch.end();
    announce(`Done: ${batch.items.length} of ${prompt}.`);
  } catch (error) {
    if (error.name === "AbortError") batch.end(undefined, `Stopped, ${batch.items.length} of ${count} done.`);
    else batch.end(error.message);
  }
  setRunning(undefined);
}

/** What was kept, each press of Generate together. */
async function showHistory() {
  let batch;
  for (const item of await history.all()) {
    if (batch?.created !== item.batch) {
      batch = new Batch(item);
      batch.created = item.batch;
      showBatch(batch);
    }
    batch.add(item);
  }
}

async function forget() {
  await history.clear();
  if (!running) $("batches").replaceChildren();
  $("history-end").hidden = true;
  $("gallery-empty").hidden = $("batches").childElementCount > 0;
  $("prompt").focus();
  announce("The history is forgotten.");
}

function again(item) {
  document.querySelector(`input[name=kind][value=${item.kind}]`).click();
  $("prompt").value = item.prompt;
  $("seed").value = item.seed;
  $("count").value = item.number + 1;
  $("cfg").value = item.cfg;
  $("temperature").value = item.temperature;
  showValues();
  $("prompt").focus();
  announce(`Seed ${seedOf(item)} is set. Change the prompt, or generate.`);
}

function showValues() {
  $("cfg-value").textContent = Number($("cfg").value) === 1 ? "off" : $("cfg").value;
  $("temperature-value").textContent = $("temperature").value;
}

function startForm() {
  const form = $("create-form");
  form.noValidate = true;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    generate();
  });
  $("create-stop").addEventListener("click", () => running?.abort());
  $("panel-create").addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  for (const id of ["cfg", "temperature"]) $(id).addEventListener("input", showValues);

  const face = (text) => [el("span", {}, text)];
  const choose = (text) => {
    $("prompt").value = text;
    $("prompt").focus();
  };
  const showExamples = offer($("create-examples"), () => prompts[kind()], face, choose);
  for (const input of document.querySelectorAll("input[name=kind]")) {
    input.addEventListener("change", () => {
      $("count").max = MOST[kind()];
      $("count").value = kind() === "video" ? 1 : 4;
      showExamples();
    });
  }
}

/** The sliders start where the model is at its best. */
function startDefaults() {
  let shown;
  server.addEventListener("change", () => {
    if (!server.model || server.model.id === shown) return;
    shown = server.model.id;
    $("cfg").value = server.model.defaults.cfg;
    $("temperature").value = server.model.defaults.temperature;
    showValues();
    const video = document.querySelector("input[name=kind][value=video]");
    video.disabled = !server.model.generates.includes("video");
  });
}

export function startCreate() {
  startForm();
  startDefaults();
  ornament($("gallery-art"));
  $("history-clear").addEventListener("click", forget);
  document.addEventListener("again", ({ detail }) => again(detail));
  showHistory();
}
