// The three plots over the filter, each with its figures as a table.

import * as bins from "./bins.js";
import { Drawing, bars, colour, stepped } from "./drawing.js";
import { element } from "./elements.js";
import { number } from "./format.js";
import { EndReasons } from "./reasons.js";

export class Plots {
  #time;
  #latency;
  #reasons;
  #failed;

  /** `onFilter` is told the values that a click or a drag asks for. */
  constructor(section, onFilter) {
    this.#failed = section.querySelector(".failed");
    this.#time = timePlot(section.querySelector("#over-time"), onFilter);
    this.#latency = latencyPlot(section.querySelector("#latency"));
    this.#reasons = new EndReasons(section.querySelector("#end-reasons"), onFilter);
  }

  show(plots, filters) {
    this.#time.show(plots.over_time);
    this.#latency.show(plots.latency);
    this.#reasons.show(plots.end_reasons, filters);
    this.#failed.hidden = true;
  }

  fail(sentence) {
    this.#failed.textContent = `The plots are not those of this list: ${sentence}.`;
    this.#failed.hidden = false;
  }
}

function timePlot(figure, onFilter) {
  const make = (plot) => ({
    isTime: true,
    series: [{ fill: colour("accent", 0.75), width: 0, paths: bars({ size: [1], align: 1, gap: 1 }), points: { show: false } }],
    labels: bins.timeLabels,
    onPoint: (at) => plot.read(at, plot.found.from, plot.found.counts.length),
    onRange(range) {
      const [from, to] = bins.wholeBins(range, plot.found.from, plot.found.bin_ms);
      onFilter({ from: String(from), to: String(to) });
    },
  });
  return new Plot(figure, make, { drawn: bins.overTime, rows: bins.overTimeRows, reading: bins.overTimeReading });
}

function latencyPlot(figure) {
  const steps = stepped({ align: 1 });
  const series = (name, more) => ({
    stroke: colour(name), fill: colour(name, 0.2), width: 1.5, paths: steps, points: { show: false }, ...more,
  });
  const make = (plot) => ({
    series: [series("user"), series("model", { dash: [4, 3] })],
    labels: bins.latencyLabels,
    onPoint: (at) => plot.read(at, 0, Math.max(plot.found.p50.length, plot.found.p95.length)),
  });
  return new Plot(figure, make, { drawn: bins.latencies, rows: bins.latencyRows, reading: bins.latencyReading });
}

class Plot {
  #drawing;
  #reading;
  #hint;
  #table;
  #says;
  #empty;
  found = null;

  constructor(figure, make, says) {
    this.#says = says;
    this.#reading = figure.querySelector(".reading");
    this.#hint = this.#reading.textContent;
    this.#empty = figure.querySelector(".empty");
    this.#table = new FiguresTable(figure.querySelector("details"));
    this.#drawing = new Drawing(figure.querySelector(".drawing"), () => make(this));
  }

  show(found) {
    // Drawn anew, a plot forgets a drag that is under way.
    if (JSON.stringify(found) === JSON.stringify(this.found)) return;
    this.found = found;
    const drawn = this.#says.drawn(found);
    this.#empty.hidden = drawn !== null;
    this.#reading.hidden = drawn === null;
    this.#drawing.draw(drawn);
    this.#table.show(() => this.#says.rows(found));
  }

  read(at, from, length) {
    const index = at === null ? null : bins.binAt(at, from, this.found.bin_ms, length);
    this.#reading.textContent = index === null ? this.#hint : this.#says.reading(this.found, index);
  }
}

/** Made when somebody opens it, and kept right while it is open. */
class FiguresTable {
  #details;
  #rows = () => [];

  constructor(details) {
    this.#details = details;
    details.addEventListener("toggle", () => this.#fill());
  }

  show(rows) {
    this.#rows = rows;
    this.#fill();
  }

  #fill() {
    if (this.#details.open) this.#details.querySelector("tbody").replaceChildren(...this.#rows().map(tableRow));
  }
}

function tableRow([name, ...figures]) {
  return element("tr", {}, element("th", { scope: "row" }, name), figures.map((figure) => element("td", {}, number(figure))));
}
