// The table's rows, latest first: added at the end, changed where they are, mended at the top.

import { element } from "./elements.js";
import { fill, rowOf } from "./row.js";

// Rows are in groups, each of which is drawn only where it is in sight: thousands of rows of that kind would be slower.
const GROUP = 50;

export class Rows {
  #table;
  #rows = new Map();

  constructor(table) {
    this.#table = table;
  }

  get size() {
    return this.#rows.size;
  }

  /** These and no others. */
  show(summaries) {
    this.#rows.clear();
    for (const group of [...this.#table.tBodies]) group.remove();
    this.append(summaries);
  }

  /** The first of those that were not here yet. */
  append(summaries) {
    const added = summaries.filter((summary) => !this.#changed(summary)).map((summary) => this.#made(summary));
    for (let at = 0; at < added.length; at += GROUP) this.#table.append(group(added.slice(at, at + GROUP)));
    return added[0];
  }

  /** Changes those that are here; whether some were not. */
  update(summaries) {
    return summaries.filter((summary) => !this.#changed(summary)).length > 0;
  }

  /**
   * The first page as it is now: new ones come in, and those that it has left out go; `isAll` when nothing follows it.
   * False, and nothing was done, when it does not reach down to the rows that are here.
   */
  mend(summaries, isAll) {
    const wanted = new Set(summaries.map((summary) => summary.session_id));
    if (!isAll && this.size && !summaries.some(({ session_id: id }) => this.#rows.has(id))) return false;
    this.#leave(wanted, isAll);
    let after = null;
    for (const summary of summaries) {
      const row = this.#changed(summary) ?? this.#made(summary, "new");
      if (row !== this.#following(after)) this.#put(row, after);
      after = row;
    }
    this.#tidy();
    return true;
  }

  /** Takes away what lies among the wanted rows and is none of them. */
  #leave(wanted, isAll) {
    const rows = [...this.#table.querySelectorAll("tbody tr")];
    const last = isAll ? rows.length - 1 : rows.findLastIndex((row) => wanted.has(row.dataset.id));
    for (const row of rows.slice(0, last + 1)) {
      if (!wanted.has(row.dataset.id)) {
        this.#rows.delete(row.dataset.id);
        row.remove();
      }
    }
    this.#tidy();
  }

  #following(row) {
    const group = row ? row.parentElement.nextElementSibling : this.#table.tBodies[0];
    return row?.nextElementSibling ?? group?.firstElementChild ?? null;
  }

  #put(row, after) {
    if (after) after.after(row);
    else this.#first().prepend(row);
  }

  /** The group that takes what is new, before others that are full. */
  #first() {
    const [first] = this.#table.tBodies;
    if (first && first.rows.length < 2 * GROUP) return first;
    const made = group([]);
    this.#table.insertBefore(made, first ?? null);
    return made;
  }

  #tidy() {
    for (const group of [...this.#table.tBodies]) {
      if (!group.rows.length) group.remove();
    }
  }

  #changed(summary) {
    const row = this.#rows.get(summary.session_id);
    if (row) fill(row, summary);
    return row;
  }

  #made(summary, className = "") {
    const row = rowOf(summary);
    if (className) row.classList.add(className);
    this.#rows.set(summary.session_id, row);
    return row;
  }
}

const group = (rows) => element("tbody", { role: "rowgroup" }, rows);
