// The codes of a picture: how often each is used at each depth, and how they are drawn.

/** Sizes of overlay cells in pixels of their canvas. */
const CELL = 16;

export class Codes {
  /** `grid[y][x][d]`, each below `codebook`. */
  constructor(grid, codebook) {
    this.grid = grid;
    this.codebook = codebook;
    this.height = grid.length;
    this.width = grid[0].length;
    this.depths = grid[0][0].length;
    this.counts = Array.from({ length: this.depths }, (_, depth) => {
      const counts = new Map();
      for (const row of grid) for (const codes of row) counts.set(codes[depth], (counts.get(codes[depth]) ?? 0) + 1);
      return counts;
    });
  }

  at({ x, y }, depth) {
    return this.grid[y][x][depth];
  }

  /** In how many positions this code stands at this depth. */
  uses(code, depth) {
    return this.counts[depth].get(code) ?? 0;
  }
}

/** A code's own colour: neighbours in the codebook look unlike. */
export function colourOf(code) {
  const hue = (code * 137.508) % 360;
  const light = 0.56 + 0.26 * ((code * 0.618034) % 1);
  return `oklch(${light} 0.125 ${hue})`;
}

/** From rare, pale, to common, dark red; by the logarithm, as one code often fills half the picture. */
function heatOf(uses, most) {
  const t = most > 1 ? Math.log(uses) / Math.log(most) : 0;
  const mix = (a, b) => Math.round(a + (b - a) * t);
  return `rgb(${mix(247, 140)} ${mix(226, 32)} ${mix(178, 24)})`;
}

/** Draws a depth's codes, a pixel each; the style sheet makes them large. */
export function drawMap(canvas, codes, depth, how) {
  canvas.width = codes.width;
  canvas.height = codes.height;
  const context = canvas.getContext("2d");
  const most = Math.max(...codes.counts[depth].values());
  codes.grid.forEach((row, y) =>
    row.forEach((cell, x) => {
      const code = cell[depth];
      context.fillStyle = how === "often" ? heatOf(codes.uses(code, depth), most) : colourOf(code);
      context.fillRect(x, y, 1, 1);
    }),
  );
}

/** Marks a position, and dims those that have another code at this depth; no position, no marks. */
export function drawMarks(canvas, codes, depth, cell) {
  canvas.width = codes.width * CELL;
  canvas.height = codes.height * CELL;
  if (!cell) return;
  const context = canvas.getContext("2d");
  const code = codes.at(cell, depth);
  context.fillStyle = "rgb(18 15 12 / 0.62)";
  codes.grid.forEach((row, y) =>
    row.forEach((other, x) => {
      if (other[depth] !== code) context.fillRect(x * CELL, y * CELL, CELL, CELL);
    }),
  );
  const frame = (inset, width, colour) => {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.strokeRect(cell.x * CELL + inset, cell.y * CELL + inset, CELL - 2 * inset, CELL - 2 * inset);
  };
  frame(1, 2, "#1f1c17");
  frame(2.5, 1.5, "#ffd166");
}
