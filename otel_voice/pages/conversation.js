// What was said and called, turn by turn, beside the time axis.

import { element, fill, reconcile, reveal, setText } from "./elements.js";
import { duration, moment } from "./format.js";
import { Gradual } from "./gradual.js";
import { MAKE, UPDATE } from "./pieces.js";

/** `onSelect(id, turn id)` and `onOpen(id)` tell what was clicked. */
export class Conversation {
  #parent;
  #entries = [];
  #gradual = new Gradual(null, fillEntry);

  constructor(parent, { onSelect, onOpen }) {
    this.#parent = parent;
    parent.addEventListener("click", ({ target }) => {
      const [opened, entry] = [target.closest("[data-open]"), target.closest("[data-turn]")];
      if (opened) onOpen(opened.dataset.open);
      // Whoever marks words wants those.
      else if (entry && getSelection().isCollapsed)
        onSelect(target.closest("[data-id]")?.dataset.id ?? entry.dataset.turn);
    });
  }

  show(call) {
    const parent = this.#parent;
    const atEnd = parent.scrollHeight - parent.scrollTop - parent.clientHeight < 40;
    const isFirst = this.#entries.length === 0;
    this.#entries = entriesOf(call);
    reconcile(parent, this.#entries, makeEntry, (node, entry) => this.#gradual.put(node, entry));
    // Of a running call, what is said now; unless somebody has gone to look at something else.
    if (call.running && (isFirst || atEnd)) this.#toEnd();
  }

  #toEnd() {
    const go = () => (this.#parent.scrollTop = this.#parent.scrollHeight);
    go();
    // Entries have their height only once they are drawn.
    requestAnimationFrame(() => requestAnimationFrame(go));
  }

  select(row, scrolls) {
    for (const node of this.#parent.querySelectorAll(".selected")) node.classList.remove("selected");
    const node = this.#nodeOf(row.turn?.id) ?? this.#nodeOf(row.id);
    if (!node) return;
    this.#gradual.now(node, ...[node.previousSibling, node.nextSibling].filter(Boolean));
    node.classList.add("selected");
    const piece = pieceOf(node, row);
    piece?.classList.add("selected");
    if (scrolls) this.#scrollTo(piece ?? node);
  }

  #nodeOf(id) {
    const place = this.#entries.findIndex(({ key }) => key === id);
    return place < 0 ? null : this.#parent.children[place];
  }

  /** Within its own panel; where the page scrolls instead, as on a phone, that. */
  #scrollTo(node) {
    const parent = this.#parent;
    if (getComputedStyle(parent).overflowY !== "visible") return reveal(node, parent);
    node.scrollIntoView();
    // What it passed has its height only now.
    requestAnimationFrame(() => node.scrollIntoView());
  }
}

function pieceOf(node, row) {
  if (row.kind === "turn") return null;
  if (row.kind === "agent_speech") return [...node.querySelectorAll(".said.agent")].at(-1);
  return node.querySelector(`[data-id="${CSS.escape(row.id)}"]`);
}

/** Turns, and what belongs to none, in time. */
function entriesOf(call) {
  const { start } = call;
  const apart = call.apart.map((row) => ({ key: row.id, start, t: row.start, pieces: [{ kind: row.kind, row }] }));
  const turns = call.turns.map((turn) => ({ key: turn.id, start, t: turn.start, turn, pieces: turn.pieces }));
  return apart.length ? [...turns, ...apart].sort((a, b) => a.t - b.t) : turns;
}

const makeEntry = ({ key, turn }) =>
  element("li", { class: turn ? "turn" : "apart", id: turn ? `turn-${turn.number}` : null, "data-turn": key });

const shown = new WeakMap();

function fillEntry(node, { key, turn, pieces, start }) {
  if (turn && !turn.interrupted && shown.get(node) === turn) return;
  shown.set(node, turn);
  if (!node.hasChildNodes()) node.append(...(turn ? [headOf(key)] : []), element("div", { class: "pieces" }));
  if (turn) updateHead(node, turn, start);
  const numbered = pieces.map((piece) => ({ ...piece, key: `${piece.kind} ${piece.row.id}` }));
  if (turn && !pieces.length) numbered.push({ kind: "nothing", key: "nothing", row: turn.row });
  reconcile(
    node.lastChild,
    numbered,
    (piece) => MAKE[piece.kind](piece),
    (made, piece) => UPDATE[piece.kind]?.(made, piece),
  );
}

function headOf(key) {
  const name = element("button", { type: "button", class: "turn-name" });
  const details = element("button", { type: "button", class: "plain", "data-open": key }, "Details");
  return element("header", {}, name, element("span", { class: "notes" }), details);
}

function updateHead(node, turn, start) {
  const [name, badges] = node.firstChild.children;
  setText(name, `Turn ${turn.number} · ${moment(turn.start - start)}`);
  const notes = notesOf(turn);
  const said = notes.map(({ text }) => text).join();
  if (node.dataset.notes === said) return;
  fill(
    badges,
    notes.map(({ text, kind }) => element("span", { class: `badge ${kind}` }, text)),
  );
  node.dataset.notes = said;
}

function notesOf(turn) {
  const notes = [];
  if (turn.latency !== null) notes.push({ text: `answered after ${duration(turn.latency)}`, kind: "" });
  if (turn.interrupted)
    notes.push({
      text: turn.heard === null ? "interrupted" : `interrupted, heard ${duration(turn.heard)}`,
      kind: "warning",
    });
  if (turn.row.runs) notes.push({ text: "so far", kind: "live" });
  return notes;
}
