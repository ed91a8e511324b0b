// The whole call in a strip, and the window of it that is in view: dragged, drawn out, or put where one clicks.

import { blocksOf, panned } from "./axis.js";
import { element, reconcile } from "./elements.js";
import { tracksOf } from "./tracks.js";

const SHOWN = ["user", "agent", "tools"];

export class Minimap {
  #strips = new Map(SHOWN.map((key) => [key, element("div", { class: `strip ${key}` })]));
  #window = element(
    "div",
    { class: "window" },
    element("i", { class: "edge start" }),
    element("i", { class: "edge end" }),
  );
  #parent;
  #range = null;
  #view = null;
  #drag = null;

  constructor(parent, onView) {
    this.#parent = parent;
    parent.append(...this.#strips.values(), this.#window);
    parent.addEventListener("pointerdown", (event) => this.#press(event, onView));
    parent.addEventListener("pointermove", (event) => this.#drag && onView(this.#drag(this.#moment(event))));
    for (const over of ["pointerup", "pointercancel"]) parent.addEventListener(over, () => (this.#drag = null));
  }

  show(call, range) {
    this.#range = range;
    for (const { key, items } of tracksOf(call)) {
      const strip = this.#strips.get(key);
      if (!strip) continue;
      const flat = items.map((item) => ({ ...item, row: 0 }));
      const blocks = blocksOf(flat, range, this.#parent.clientWidth).map((block) => ({
        ...block,
        key: `${block.item.kind} ${block.item.id}`,
      }));
      reconcile(
        strip,
        blocks,
        ({ item }) => element("i", { class: item.kind }),
        (node, { left, width, failed }) => {
          node.style.left = `${left}%`;
          node.style.width = `${width}%`;
          node.classList.toggle("failed", failed);
        },
      );
    }
  }

  draw(view) {
    this.#view = view;
    const { start, end } = this.#range;
    this.#window.style.left = `${((view.start - start) / (end - start)) * 100}%`;
    this.#window.style.width = `${((view.end - view.start) / (end - start)) * 100}%`;
  }

  #moment(event) {
    const { left, width } = this.#parent.getBoundingClientRect();
    return this.#range.start + ((event.clientX - left) / width) * (this.#range.end - this.#range.start);
  }

  #press(event, onView) {
    event.preventDefault();
    this.#parent.setPointerCapture(event.pointerId);
    const [pressed, view] = [this.#moment(event), this.#view];
    const edge = event.target.classList.contains("edge") ? event.target : null;
    if (edge?.classList.contains("start")) this.#drag = (t) => ({ start: Math.min(t, view.end - 1), end: view.end });
    else if (edge) this.#drag = (t) => ({ start: view.start, end: Math.max(t, view.start + 1) });
    else {
      const outside = pressed < view.start || pressed > view.end;
      const from = outside ? panned(view, pressed - (view.start + view.end) / 2, this.#range) : view;
      this.#drag = (t) => panned(from, t - pressed, this.#range);
      onView(this.#drag(pressed));
    }
  }
}
