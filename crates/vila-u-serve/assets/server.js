// Watches the server: which model it has, and whether it is there.

import { json, trouble } from "./api.js";

/** One of "connecting", "ready", "loading", "locked", "lost"; `model` is the last one known. */
export const server = Object.assign(new EventTarget(), { state: "connecting", model: undefined, retryAt: 0 });

const CALM = 10_000;
const BACKOFF = [1_000, 2_000, 4_000, 8_000];

let failures = 0;
let timer;
let checking = false;

function become(state) {
  const before = server.state;
  server.state = state;
  server.dispatchEvent(new CustomEvent("change", { detail: { before } }));
}

function later(wait) {
  clearTimeout(timer);
  server.retryAt = Date.now() + wait;
  timer = setTimeout(check, wait);
}

/** Looks now, and again in a while. */
export async function check() {
  if (checking) return;
  checking = true;
  try {
    const signal = AbortSignal.timeout(8_000);
    await json("health", { signal });
    // The model is asked for again whenever the server may be another one.
    if (server.state !== "ready") {
      const list = await json("v1/models", { signal });
      server.model = described(list.data[0]);
      become("ready");
    }
    failures = 0;
    later(CALM);
  } catch (error) {
    if (error.status === 401) {
      become("locked");
      clearTimeout(timer);
    } else if (error.status === 503) {
      become("loading");
      later(1_000);
    } else {
      later(BACKOFF[Math.min(failures, BACKOFF.length - 1)]);
      failures += 1;
      become("lost");
    }
  } finally {
    checking = false;
  }
}

/** Resolves once the server is there; rejects when `signal` is aborted. */
export function untilReady(signal) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (server.state !== "ready" && !signal.aborted) return;
      server.removeEventListener("change", look);
      signal.removeEventListener("abort", look);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    server.addEventListener("change", look);
    signal.addEventListener("abort", look);
    look();
  });
}

/** The model's fields, with something sane where a server does not say. */
function described(model) {
  const [height, width, depth] = model.code_shape ?? [16, 16, 4];
  return {
    id: model.id,
    imageSize: model.image_size ?? 256,
    shape: { height, width, depth },
    codebook: model.codebook_size ?? 16384,
    frames: model.video_frames ?? 8,
    parameters: model.parameters,
    device: model.device,
    dtype: model.dtype,
    generates: model.generates ?? ["text", "image", "video"],
    defaults: { cfg: 3, temperature: 1, ...model.defaults },
    isNano: /(^|[/-])nano$/i.test(model.id),
  };
}

// A request failed: look at once, unless a look is already near.
trouble.addEventListener("lost", () => {
  if (!checking && server.state !== "lost") check();
});
trouble.addEventListener("locked", () => {
  if (!checking) become("locked");
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && server.state !== "locked") check();
});
addEventListener("online", () => check());
