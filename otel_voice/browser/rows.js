const KEEP_MS = 100; // what a browser that is killed can lose
const ROW_BYTES = 16_000;
const BATCH_BYTES = 50_000;
const BATCH_EVENTS = 500;
const QUEUED_BYTES = 4e6; // beyond it the oldest go, and the receiver sees the gap

export const bytesOf = (text) => new TextEncoder().encode(text).length;

/** A source's events in rows, each kept in IndexedDB until it is forgotten. */
export class Rows {
  onclose = () => {};
  onunkept = () => {};
  atOnce = Infinity;
  #open;
  #made = 0;
  #bytes = 0;

  constructor(to, clock, kept, all) {
    Object.assign(this, { to, clock, kept, all });
  }

  keepIn(kept) {
    this.kept = kept;
    this.#keep((store) => this.all.forEach((row) => store.put(row)));
  }

  #keep(change) {
    this.kept?.change(change).catch((error) => this.onunkept(error));
  }

  add(text) {
    const { era } = this.clock;
    const bytes = bytesOf(text) + 1;
    if (this.#open && (this.#open.era !== era || this.#open.bytes + bytes > ROW_BYTES)) this.close();
    if (!this.#open) {
      this.#open = { era, texts: [], bytes: 0 };
      setTimeout(() => this.close(), KEEP_MS);
    }
    this.#open.texts.push(text);
    this.#open.bytes += bytes;
  }

  close() {
    if (!this.#open) return;
    const { era, texts, bytes } = this.#open;
    const id = `${this.to.source}/${String(this.#made++).padStart(9, 0)}`;
    const row = { ...this.to, id, era, bytes, count: texts.length, events: texts.join() };
    this.#open = null;
    this.#bytes += bytes;
    this.all.push(row);
    this.#keep((store) => store.put(row));
    this.onclose();
  }

  /** Lets go of the oldest but these, while there is more than memory is for. */
  shed(others) {
    while (this.#bytes > QUEUED_BYTES) {
      const oldest = this.all.find((row) => !others.includes(row));
      if (oldest === this.all.at(-1)) return;
      this.forget([oldest]);
    }
  }

  forget(rows) {
    for (const row of rows) this.#bytes -= row.bytes;
    this.all = this.all.filter((row) => !rows.includes(row));
    this.#keep((store) => rows.forEach((row) => store.delete(row.id)));
  }

  /** The first of these that go together: of one clock, and few enough to outlive the page. */
  batch(rows, most = BATCH_BYTES) {
    let count = 0;
    let bytes = 0;
    const end = rows.findIndex((row, n) => {
      count += row.count;
      bytes += row.bytes;
      return n >= this.atOnce || count > BATCH_EVENTS || bytes > most || row.era.offset !== rows[0].era.offset;
    });
    return rows.slice(0, end < 0 ? rows.length : Math.max(1, end));
  }
}
