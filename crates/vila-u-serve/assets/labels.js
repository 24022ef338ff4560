// Zero-shot labels: how well words describe a picture, as bars.

import { announce, button, el, problem } from "./dom.js";
import { json } from "./api.js";
import { server } from "./server.js";
import { labels as nanoLabels } from "./examples.js";

const percent = (probability) => `${(probability * 100).toFixed(probability < 0.1 ? 1 : 0)} %`;

function barNode({ label, probability }) {
  const fill = el("span", { class: "bar-fill" });
  fill.style.width = `${Math.max(probability * 100, 0.5)}%`;
  return el(
    "li",
    {},
    el("span", { class: "bar-label" }, label),
    el("span", { class: "bar-value" }, percent(probability)),
    el("span", { class: "bar", "aria-hidden": true }, fill),
  );
}

/** The section for a picture, given as a data URL. */
export function labelsSection(image) {
  const suggested = server.model?.isNano ? nanoLabels : ["a photo of a person", "a photo of an animal", "a landscape", "a drawing"];
  const field = el("input", { id: "labels", type: "text", value: suggested.join(", "), autocomplete: "off" });
  const bars = el("ul", { class: "bars", id: "bars", "aria-label": "Labels, the best first" });
  const failure = el("p", { class: "problem", role: "alert", hidden: true });
  const form = el(
    "form",
    { class: "labels-form" },
    el("label", { for: "labels" }, "Labels, with commas between them"),
    el("span", { class: "row" }, field, button("Compare", undefined, undefined, { type: "submit", id: "classify" })),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem(failure);
    const labels = [...new Set(field.value.split(/[,\n]/).map((label) => label.trim()).filter(Boolean))];
    if (labels.length < 2) {
      problem(failure, "Give at least two labels, with a comma between them.");
      return;
    }
    bars.setAttribute("aria-busy", true);
    try {
      const answer = await json("v1/classify", { body: { image, labels } });
      const sorted = [...answer.labels].sort((a, b) => b.probability - a.probability);
      bars.replaceChildren(...sorted.map(barNode));
      announce(`Best: ${sorted[0].label}, ${percent(sorted[0].probability)}.`);
    } catch (error) {
      problem(failure, error.message);
    }
    bars.setAttribute("aria-busy", false);
  });
  return el(
    "section",
    { class: "card labels", "aria-labelledby": "labels-title" },
    el("h3", { id: "labels-title" }, "What does it match?"),
    el("p", { class: "quiet" }, "Words and pictures share one space in this model; no training on these labels is needed."),
    form,
    failure,
    bars,
  );
}
