// The time axis as a whole: which view the lanes and the minimap show, and how mouse and keyboard change it.

import { clamped, isWhole, panned, showing, zoomed } from "./axis.js";
import { Lanes } from "./lanes.js";
import { Minimap } from "./minimap.js";

const ZOOM = 1.5;
// A press that moves less is a click.
const CLICK_PX = 4;

export class Timeline {
  #lanes;
  #minimap;
  #range = null;
  #view = null;
  #frame = 0;

  /** `onStep(±1)` asks for the turn after or before, `onOpen()` for the drawer of what is selected. */
  constructor(parts, { onSelect, onOpen, onStep }) {
    this.#lanes = new Lanes(parts.lanes, { onSelect, onOpen });
    this.#minimap = new Minimap(parts.minimap, (view) => this.#look(view));
    parts.zoomIn.addEventListener("click", () => this.#zoom(ZOOM));
    parts.zoomOut.addEventListener("click", () => this.#zoom(1 / ZOOM));
    parts.fit.addEventListener("click", () => this.#look(this.#range));
    parts.lanes.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    parts.lanes.addEventListener("keydown", (event) => this.#key(event, onStep, onOpen));
    this.#dragging(parts.lanes);
    new ResizeObserver(() => this.#redraw(true)).observe(parts.lanes);
    this.call = null;
  }

  show(call) {
    const whole = this.#view === null || isWhole(this.#view, this.#range);
    this.call = call;
    this.#range = { start: call.start, end: call.end };
    this.#view = whole ? this.#range : clamped(this.#view, this.#range);
    this.#lanes.show(call);
    this.#redraw(true);
  }

  /** Marks the span and its turn. */
  mark(row) {
    this.#lanes.select(row.id, row.turn?.row ?? null);
    this.#redraw();
  }

  /** ... and moves so far that they are in view. */
  select(row) {
    this.mark(row);
    const shown = row.kind === "session" ? { start: row.end, end: row.end } : (row.turn?.row ?? row);
    this.#look(showing(this.#view, shown, this.#range, this.#lanes.bounds.width));
  }

  /** Another call comes. */
  reset() {
    this.#view = null;
    this.#lanes.select(null, null);
  }

  #look(view) {
    if (this.#range === null) return;
    this.#view = clamped(view, this.#range);
    this.#redraw();
  }

  #redraw(mapToo = false) {
    if (mapToo && this.call) this.#minimap.show(this.call, this.#range);
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      if (!this.#view) return;
      this.#lanes.draw(this.#view);
      this.#minimap.draw(this.#view);
    });
  }

  #zoom(factor, t = (this.#view.start + this.#view.end) / 2) {
    this.#look(zoomed(this.#view, factor, t, this.#range));
  }

  #pan(share) {
    this.#look(panned(this.#view, share * (this.#view.end - this.#view.start), this.#range));
  }

  #wheel(event) {
    const { left, width } = this.#lanes.bounds;
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (event.ctrlKey || event.metaKey) {
      const share = Math.min(Math.max((event.clientX - left) / width, 0), 1);
      this.#zoom(Math.exp(-event.deltaY / 300), this.#view.start + share * (this.#view.end - this.#view.start));
    } else if (Math.abs(sideways) > (event.shiftKey ? 0 : Math.abs(event.deltaY))) this.#pan(sideways / width);
    else return;
    event.preventDefault();
  }

  #key(event, onStep, onOpen) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const does = {
      ArrowLeft: () => this.#pan(-0.2),
      ArrowRight: () => this.#pan(0.2),
      PageUp: () => this.#pan(-0.9),
      PageDown: () => this.#pan(0.9),
      Home: () => this.#pan(-1e9),
      End: () => this.#pan(1e9),
      ArrowUp: () => onStep(-1),
      ArrowDown: () => onStep(1),
      "+": () => this.#zoom(ZOOM),
      "=": () => this.#zoom(ZOOM),
      "-": () => this.#zoom(1 / ZOOM),
      0: () => this.#look(this.#range),
      Enter: onOpen,
    }[event.key];
    if (!does || this.#view === null) return;
    event.preventDefault();
    does();
  }

  /** Sideways; only once it is a drag is the pointer taken, or blocks could not be clicked. */
  #dragging(lanes) {
    let from = null;
    const over = () => {
      from = null;
      lanes.classList.remove("dragging");
    };
    lanes.addEventListener("pointerdown", ({ clientX, button }) => {
      if (button === 0 && this.#view) from = { x: clientX, view: this.#view };
    });
    lanes.addEventListener("pointermove", (event) => {
      if (from === null || (!lanes.classList.contains("dragging") && Math.abs(event.clientX - from.x) < CLICK_PX))
        return;
      if (!lanes.classList.contains("dragging")) lanes.setPointerCapture(event.pointerId);
      lanes.classList.add("dragging");
      const ms = ((from.x - event.clientX) / this.#lanes.bounds.width) * (from.view.end - from.view.start);
      this.#look(panned(from.view, ms, this.#range));
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) lanes.addEventListener(name, over);
  }
}
