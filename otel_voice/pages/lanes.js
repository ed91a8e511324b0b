// The lanes on one time axis: only what is in view is in the DOM.

import { blocksOf, percent, ticks } from "./axis.js";
import { content, covers, laneOf, make, near, pointEntries, put, saysOf, spanned } from "./blocks.js";
import { element, reconcile } from "./elements.js";
import { moment } from "./format.js";
import { LANES, pointsOf, tracksOf } from "./tracks.js";

// Less has no room for a word.
const LABEL_PX = 22;
// More barge-ins in view would hide what they mark.
const CROWD = 30;

/** Draws into `parent`; `onSelect(id)` and `onOpen(id)` tell what was clicked once and twice. */
export class Lanes {
  #axis = content();
  #under = content();
  #over = content();
  #lanes = new Map();
  // As it was drawn last; until it is far from there, its content is moved.
  #base = null;
  #width = 0;
  #call = null;
  #tracks = [];
  #points = [];
  #selected = null;
  #turn = null;

  constructor(parent, { onSelect, onOpen }) {
    parent.append(laneOf("", this.#axis, "ruler"), laneOf("", this.#under, "overlay"));
    for (const { key, name } of LANES) {
      this.#lanes.set(key, content());
      parent.append(laneOf(name, this.#lanes.get(key), key));
    }
    parent.append(laneOf("", this.#over, "overlay over"));
    const idOf = (event) => event.target.closest("[data-id]")?.dataset.id;
    parent.addEventListener("click", (event) => {
      if (!idOf(event)) return;
      onSelect(idOf(event));
      // A block is gone when one zooms away from it, and the keys with it.
      parent.focus({ preventScroll: true });
    });
    parent.addEventListener("dblclick", (event) => idOf(event) && onOpen(idOf(event)));
  }

  /** Of the time axis, in px of the page. */
  get bounds() {
    return this.#axis.parentNode.getBoundingClientRect();
  }

  show(call) {
    this.#call = call;
    this.#tracks = tracksOf(call);
    this.#points = pointsOf(call);
    this.#base = null;
  }

  select(id, turn) {
    this.#selected = id;
    this.#turn = turn;
    this.#base = null;
  }

  draw(view) {
    if (this.#call === null) return;
    const width = this.#axis.clientWidth;
    if (this.#base === null || width !== this.#width || !covers(this.#base, view)) this.#drawAnew(view, width);
    const moved = `translateX(${-percent(view.start, this.#base)}%)`;
    for (const each of [this.#axis, this.#under, this.#over, ...this.#lanes.values()]) each.style.transform = moved;
  }

  #drawAnew(view, width) {
    [this.#base, this.#width] = [view, width];
    this.#ticks(view, width);
    this.#drawAcross(view, width);
    for (const track of this.#tracks) this.#drawTrack(track, view, width);
  }

  #ticks(view, width) {
    const { moments, digits } = ticks(view, this.#call.start, width);
    const entries = moments.map((t) => ({ key: t, t, text: moment(t - this.#call.start, digits) }));
    reconcile(
      this.#axis,
      entries,
      () => element("span", { class: "tick" }),
      (node, { t, text }) => {
        node.textContent = text;
        node.style.left = `${percent(t, view)}%`;
      },
    );
  }

  /** What concerns all lanes: dead air and the turn that is selected under them, barge-ins over them. */
  #drawAcross(view, width) {
    const silences = this.#call.silences.map((each) => ({ ...each, id: each.turn.id, row: each.kind }));
    const entries = blocksOf(silences, view, width).map((block) => ({
      ...block,
      key: `${block.row} ${block.start}`,
      name: block.row,
    }));
    if (this.#turn) entries.unshift({ key: "turn", name: "current", ...spanned(this.#turn, view) });
    reconcile(
      this.#under,
      entries,
      ({ name, item }) => element("div", { class: name, "data-id": item?.id }),
      (node, entry) => {
        put(node, entry);
        node.title = entry.item ? saysOf(entry) : "";
      },
    );
    const bargeIns = near(this.#call.bargeIns, view, width).map(({ t }) => ({
      key: t,
      left: percent(t, view),
      width: 0,
    }));
    this.#over.classList.toggle("crowded", bargeIns.length > CROWD);
    reconcile(this.#over, bargeIns, () => element("div", { class: "barge-in" }), put);
  }

  #drawTrack({ key, rows, items }, view, width) {
    const track = this.#lanes.get(key);
    track.parentNode.style.setProperty("--rows", rows);
    const entries = blocksOf(items, view, width).map((block) => ({
      ...block,
      key: `${block.item.kind} ${block.item.id}`,
      px: (block.width / 100) * width,
    }));
    if (key === "connection") entries.push(...pointEntries(this.#points, view, width));
    reconcile(track, entries, make, (node, entry) => this.#update(node, entry));
  }

  #update(node, entry) {
    put(node, entry);
    if (entry.point) return;
    const { item, count, row } = entry;
    node.style.setProperty("--row", row);
    node.classList.toggle("small", entry.px < LABEL_PX);
    node.classList.toggle("failed", entry.failed);
    node.classList.toggle("runs", item.runs);
    node.classList.toggle("selected", item.id === this.#selected);
    const says = count > 1 ? `${item.says} (and ${count - 1} more)` : item.says;
    if (node.title === says) return;
    node.title = says;
    node.setAttribute("aria-label", says);
    node.firstChild.textContent = item.label;
  }
}
