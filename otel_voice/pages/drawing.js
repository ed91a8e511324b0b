// What the plots have in common: uPlot in the page's colours, as wide as its place.

import uPlot from "./vendor/uplot-1.6.32.js";

const HEIGHT = 130;
// Sessions are whole.
const STEPS = [1, 2, 5].flatMap((step) => [0, 1, 2, 3, 4, 5, 6].map((power) => step * 10 ** power)).sort((a, b) => a - b);
const dark = matchMedia("(prefers-color-scheme: dark)");

export const { bars, stepped } = uPlot.paths;

/** A colour of the style sheet; `strength` mixes it with nothing. */
export function colour(name, strength = 1) {
  const value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || "gray";
  return strength === 1 ? value : `color-mix(in srgb, ${value} ${strength * 100}%, transparent)`;
}

/**
 * A plot in `place`; `make` gives its series and the labels along x. `draw({data, range})` shows bins, `draw(null)` nothing.
 * `onPoint(x or null)` follows the pointer, `onRange([x, x])` tells what was dragged over.
 */
export class Drawing {
  #place;
  #make;
  #plot = null;
  #drawn = null;

  constructor(place, make) {
    this.#place = place;
    this.#make = make;
    new ResizeObserver(() => this.#fit()).observe(place);
    dark.addEventListener("change", () => this.draw(this.#drawn));
  }

  draw(drawn) {
    this.#plot?.destroy();
    this.#plot = null;
    this.#drawn = drawn;
    if (drawn) this.#plot = new uPlot(options(this.#make(), drawn.range, this.#width()), drawn.data, this.#place);
  }

  #fit() {
    this.#plot?.setSize({ width: this.#width(), height: HEIGHT });
  }

  #width() {
    return Math.max(this.#place.clientWidth, 50);
  }
}

function options({ series, labels, isTime = false, onPoint, onRange }, range, width) {
  const axis = { stroke: colour("muted"), font: `11px ${fontOf()}`, ticks: { show: false } };
  const grid = { stroke: colour("line"), width: 1 };
  return {
    width,
    height: HEIGHT,
    ms: 1,
    padding: [8, 16, 0, 0],
    legend: { show: false },
    scales: { x: { time: isTime, range }, y: { range: (_, low, high) => [0, Math.max(high, 1)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 22, gap: 4, space: 64, values: (_, splits, __, ___, step) => labels(splits, step) },
      { ...axis, grid, size: 36, gap: 4, space: 28, incrs: STEPS },
    ],
    series: [{}, ...series],
    cursor: cursor(Boolean(onRange)),
    hooks: { setCursor: [pointing(onPoint)], setSelect: [selecting(onRange)] },
  };
}

function cursor(drags) {
  return {
    y: false,
    points: { show: false },
    drag: { x: drags, y: false, setScale: false },
    bind: { dblclick: () => null },
  };
}

const pointing = (onPoint) => (plot) => {
  const { left } = plot.cursor;
  onPoint(left < 0 ? null : plot.posToVal(left, "x"));
};

const selecting = (onRange) => (plot) => {
  const { left, width } = plot.select;
  if (width > 3) onRange?.([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
};

function fontOf() {
  return getComputedStyle(document.body).fontFamily;
}
