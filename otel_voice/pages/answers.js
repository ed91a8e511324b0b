// Each turn's latency as one bar on a common scale, split into its parts.

import { element, fill, reconcile, reveal } from "./elements.js";
import { duration } from "./format.js";
import { Gradual } from "./gradual.js";
import { latencyOf, NAMES } from "./latency.js";

/** With a word on the star, where there is one. */
export function showLegend(parent, { turns }) {
  const starred = turns.some((turn) => toldOf(turn).latency?.measured === false);
  fill(
    parent,
    Object.entries(NAMES).map(([kind, name]) => element("li", {}, element("i", { class: `part ${kind}` }), name)),
    starred && element("li", {}, "* to the first output: its playing was not measured"),
  );
}

/** `call` -> [{key, turn, latency, says, share}]: `share` of the slowest. */
function answersOf({ turns }) {
  const found = turns.map((turn) => ({ key: turn.id, turn, ...toldOf(turn) }));
  const longest = Math.max(...found.map(({ latency }) => latency?.total ?? 0), 1);
  return found.map((each) => ({ ...each, share: (each.latency?.total ?? 0) / longest }));
}

const told = new WeakMap();

function toldOf(turn) {
  if (!told.has(turn)) {
    const latency = latencyOf(turn);
    told.set(turn, { latency, says: saysOf(turn, latency) });
  }
  return told.get(turn);
}

function saysOf(turn, latency) {
  if (latency === null) return `Turn ${turn.number}: not measured`;
  const parts = latency.parts.map(({ name, ms }) => `${name} ${duration(ms)}`).join(", ");
  const until = latency.measured ? "" : "; until the first output, for the playing was not measured";
  return `Turn ${turn.number}: ${duration(latency.total)}: ${parts}${until}`;
}

export class Answers {
  #parent;
  #shown = [];
  #gradual;

  constructor(parent, onSelect) {
    this.#parent = parent;
    this.#gradual = new Gradual(parent, update);
    parent.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (button) onSelect(target.closest("[data-id]")?.dataset.id ?? button.dataset.turn, button.dataset.turn);
    });
  }

  show(call) {
    this.#shown = answersOf(call);
    reconcile(this.#parent, this.#shown, make, (node, entry) => this.#gradual.put(node, entry));
  }

  select(turnId, scrolls) {
    for (const node of this.#parent.querySelectorAll(".selected")) node.classList.remove("selected");
    const place = this.#shown.findIndex(({ key }) => key === turnId);
    const node = this.#parent.children[place];
    node?.classList.add("selected");
    if (node && scrolls) reveal(node, this.#parent);
  }
}

const make = () => element("li");

const buttonOf = (turn) =>
  element(
    "button",
    { type: "button", "data-turn": turn.id },
    ...["turn-number", "bar", "total"].map((name) => element("span", { class: name })),
  );

function update(node, { turn, latency, says, share }) {
  if (!node.hasChildNodes()) node.append(buttonOf(turn));
  const button = node.firstChild;
  if (button.title === says && button.dataset.share === String(share)) return;
  button.title = says;
  button.dataset.share = share;
  button.setAttribute("aria-label", says);
  const [name, bar, total] = button.children;
  name.textContent = turn.number;
  bar.style.setProperty("--share", share);
  total.textContent = latency === null ? "unknown" : duration(latency.total) + (latency.measured ? "" : " *");
  fill(
    bar,
    latency === null
      ? element("i", { class: "part unknown whole" })
      : latency.parts.map((part) => partOf(part, latency)),
  );
}

function partOf({ kind, name, ms, id }, { total }) {
  const node = element("i", { class: `part ${kind}`, title: `${name}: ${duration(ms)}`, "data-id": id });
  node.style.width = `${(ms / total) * 100}%`;
  return node;
}
