// Runs what Create asks for. Each function tells `batch` how it goes and gives finished items to `done`.

import { ApiError, blob, events, json, request } from "./api.js";
import { blobOfBase64 } from "./media.js";
import { untilReady } from "./server.js";

const typeOf = (format) => ({ jpeg: "image/jpeg", webp: "image/webp" })[format] ?? "image/png";

/** The seed of a picture, and its number among those of that seed: a server may count seeds up, or pictures. */
const whichOf = (data, asked, index) => {
  const seed = data.seed ?? asked;
  return { seed, number: seed === asked ? index : 0 };
};

/** Images, all of them in one stream, each shown while it is drawn. */
export async function images({ prompt, count, seed, cfg, temperature, model }, batch, signal, done) {
  // Many pictures at once are small on the page; a few can be seen growing.
  const partial_images = count <= 4 ? 8 : 3;
  const body = { prompt, n: count, seed, cfg, temperature, model, response_format: "b64_json", stream: true, partial_images };
  let finished = 0;
  for await (const { event, data } of events("v1/images/generations", body, signal)) {
    const index = data.image_index ?? 0;
    switch (data.type ?? event) {
      case "image_generation.progress":
        batch.advance(index, data.done, data.total);
        break;
      case "image_generation.partial_image":
        batch.preview(index, blobOfBase64(data.b64_json, typeOf(data.output_format)));
        break;
      case "image_generation.completed":
        finished += 1;
        done({ index, ...whichOf(data, seed, index), blob: blobOfBase64(data.b64_json, typeOf(data.output_format)) });
        break;
    }
  }
  if (finished < count) throw new ApiError(`The server ended after ${finished} of ${count}. Generate again for the rest.`, 0);
}

const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });

/** A job's state; waits for a server that is away. */
async function look(id, signal) {
  for (;;) {
    try {
      return await json(`v1/videos/${id}`, { signal });
    } catch (error) {
      if (error.status === 404) {
        throw new ApiError("The server has forgotten this video; it may have been started anew. Generate it again.", 404);
      }
      if (error.status !== 0 && error.status !== 503) throw error;
      await pause(500, signal);
      await untilReady(signal);
    }
  }
}

async function video({ prompt, cfg, temperature, model }, index, seed, batch, signal, done) {
  let job = await json("v1/videos", { body: { prompt, seed, cfg, temperature, model }, signal });
  const forget = () => request(`v1/videos/${job.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
  addEventListener("pagehide", forget);
  try {
    for (let wait = 250; ["queued", "in_progress"].includes(job.status); wait = Math.min(wait * 1.3, 2000)) {
      batch.advance(index, job.progress ?? 0, 100);
      await pause(wait, signal);
      job = await look(job.id, signal);
    }
    if (job.status !== "completed") {
      throw new ApiError(job.error?.message ?? "The video was cancelled on the server.", 0);
    }
    const made = await blob(`v1/videos/${job.id}/content`, { signal });
    done({ index, seed: job.seed ?? seed, number: 0, blob: new Blob([made], { type: "video/mp4" }) });
  } finally {
    // The page has it, or nobody wants it: the server need not keep it.
    removeEventListener("pagehide", forget);
    forget();
  }
}

/** Videos, a job each. */
export async function videos(settings, batch, signal, done) {
  const jobs = Array.from({ length: settings.count }, (_, index) =>
    video(settings, index, settings.seed + index, batch, signal, done),
  );
  const results = await Promise.allSettled(jobs);
  const failed = results.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}
