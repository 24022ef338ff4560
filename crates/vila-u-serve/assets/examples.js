// Prompts that the embedded model is good at; other models need none.

import { $, el } from "./dom.js";
import { server } from "./server.js";

export const EXAMPLE_PICTURE = "assets/example.png";

export const questions = [
  { text: "What is in this picture?", picture: true },
  { text: "What colour is the background?", picture: true },
  { text: "Draw a red heart on a blue background and say where it is." },
  { text: "Draw an apple on a pink background and say where it is." },
];

export const prompts = {
  image: ["a red heart on a blue background", "an apple on a pink background", "four red hearts on a yellow background", "a rocket on a black background"],
  video: ["a red heart shrinks on a yellow background", "an apple grows on a pink background"],
};

export const labels = ["a red heart", "an apple", "a rocket", "a cat", "a blue background"];

/** Fills a group with buttons, one for each example, where the model is the embedded one. */
export function offer(group, examples, faceOf, choose) {
  const face = (example) => el("button", { type: "button", on: { click: () => choose(example) } }, ...faceOf(example));
  const show = () => {
    const nano = server.model?.isNano ?? false;
    group.hidden = !nano;
    if (nano) group.replaceChildren(...examples().map(face));
  };
  server.addEventListener("change", show);
  show();
  return show;
}

export async function examplePicture() {
  const response = await fetch(EXAMPLE_PICTURE);
  if (!response.ok) throw new Error("The example picture cannot be loaded. Choose one of your own.");
  return { kind: "image", blob: await response.blob(), name: "example.png" };
}

/** Whether the embedded model is there. */
export const showForNano = (id) => {
  server.addEventListener("change", () => ($(id).hidden = !(server.model?.isNano ?? false)));
};
