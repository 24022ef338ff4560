// What the server is doing: a line in the corner, and a sentence under the tabs when it needs attention.

import { $, announce, count, problem } from "./dom.js";
import { hasKey, setKey } from "./api.js";
import { check, server } from "./server.js";

let ticking;

function line() {
  const model = server.model;
  switch (server.state) {
    case "ready":
      return [model.id, model.parameters && count(model.parameters), model.device, model.dtype].filter(Boolean).join(" · ");
    case "loading":
      return "Loading the model…";
    case "locked":
      return "Locked";
    case "lost":
      return "No answer";
    default:
      return "Connecting…";
  }
}

/** Seen, not heard: screen readers are told once that the server is lost, not every second. */
function countDown() {
  const wait = Math.round((server.retryAt - Date.now()) / 1000);
  $("lost-when").textContent = wait > 0 ? `; trying again in ${wait} s` : "; trying again now";
}

function show({ detail: { before } }) {
  const { state } = server;
  $("status").dataset.state = state;
  $("status-text").textContent = line();
  $("status").title = state === "ready" ? `${server.model.id}, ${server.model.imageSize} px, ready` : "";

  const lost = state === "lost";
  clearInterval(ticking);
  if (lost) {
    countDown();
    ticking = setInterval(countDown, 1000);
  }
  $("lost").hidden = !lost;
  if (before === "lost" && state === "ready") announce("The server is back.");

  const locked = state === "locked";
  const opened = locked && $("key-form").hidden;
  $("key-form").hidden = !locked;
  if (locked) problem($("key-problem"), hasKey() ? "The server does not take this key. Check it and try again." : undefined);
  if (opened) $("key").focus();
}

export function startNotices() {
  server.addEventListener("change", show);
  $("lost-retry").addEventListener("click", check);
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey($("key").value.trim());
    check();
  });
}
