// A picture that is still being drawn: its positions, filled in reading order as the model goes.

const COLOURS = ["#d9583a", "#e3a73b", "#4fa294", "#6c8fd6"];
const EMPTY = "rgb(128 120 108 / 0.16)";
const CELL = 12;
const GAP = 2;

const colourOf = (cell, seed) => COLOURS[(Math.imul(cell + 1, 2654435761) ^ Math.imul(seed + 1, 40503)) >>> 30];

export class Mosaic {
  constructor({ width, height }, seed = 0) {
    this.columns = width;
    this.cells = width * height;
    this.seed = seed;
    this.canvas = document.createElement("canvas");
    this.canvas.width = width * CELL;
    this.canvas.height = height * CELL;
    this.canvas.className = "mosaic";
    this.canvas.setAttribute("aria-hidden", "true");
    this.set(0);
  }

  /** Draws the first `fraction` of the positions as done. */
  set(fraction) {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const done = Math.floor(fraction * this.cells);
    for (let cell = 0; cell < this.cells; cell += 1) {
      context.fillStyle = cell < done ? colourOf(cell, this.seed) : EMPTY;
      const x = (cell % this.columns) * CELL;
      const y = Math.floor(cell / this.columns) * CELL;
      context.fillRect(x + GAP / 2, y + GAP / 2, CELL - GAP, CELL - GAP);
    }
  }
}

const HEART = ["01100110", "11111111", "11111111", "11111111", "01111110", "00111100", "00011000", "00000000"].join("");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** An ornament of eight by eight positions, filled in reading order the first time it is seen. */
export function ornament(canvas) {
  const size = canvas.width / 8;
  const context = canvas.getContext("2d");
  const square = (cell, colour) => {
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect((cell % 8) * size + 1.5, Math.floor(cell / 8) * size + 1.5, size - 3, size - 3, size / 8);
    context.fill();
  };
  for (let cell = 0; cell < HEART.length; cell += 1) square(cell, EMPTY);
  let done = 0;
  const step = () => {
    const until = calm.matches ? HEART.length : done + 1;
    for (; done < until; done += 1) if (HEART[done] === "1") square(done, colourOf(done, 3));
    if (done < HEART.length) setTimeout(step, 22);
  };
  new IntersectionObserver(([entry], observer) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    step();
  }).observe(canvas);
}
