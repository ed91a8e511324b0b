import { now } from "./clock.js";

const EVERY_MS = 1_000; // a POST at most
const KEEP_MS = 100; // what a browser that is killed can lose
const SLOWEST_MS = 30_000;
const EXPIRES_MS = 60_000;
const ROW_BYTES = 16_000;
const BATCH_BYTES = 50_000;
const BATCH_EVENTS = 500;
const ENVELOPE_BYTES = 1_000;
const QUEUED_BYTES = 4e6; // beyond it the oldest go, and the receiver sees the gap
const BUDGET = 60_000; // of all that may outlive the page: browsers draw the line at 64 KiB
let inFlight = 0;

const bytesOf = (text) => new TextEncoder().encode(text).length;

/** One source's events on their way, in rows that are kept until an answer to them was read. */
export class Sending {
  #open;
  #made = 0;
  #bytes = 0;
  #going = []; // rows whose answer is waited for
  #busy = false;
  #hurry = false;
  #last = 0;
  #timer;
  #failures = 0;

  /** `to`: {source, session_id, url, token, expires_at}. `left`: rows of a page that is gone. */
  constructor(to, clock, renew, kept, left) {
    Object.assign(this, { to, clock, renew, kept, rows: left ?? [], left, onempty: undefined });
  }

  keepIn(kept) {
    this.kept = kept;
    this.#keep((store) => this.rows.forEach((row) => store.put(row)));
  }

  #keep(change) {
    this.kept?.change(change).catch(() => {}); // memory has to do
  }

  add(text) {
    const { era } = this.clock;
    const bytes = bytesOf(text) + 1;
    if (this.#open && (this.#open.era !== era || this.#open.bytes + bytes > ROW_BYTES)) this.#close();
    if (!this.#open) {
      this.#open = { era, texts: [], bytes: 0 };
      setTimeout(() => this.#close(), KEEP_MS);
    }
    this.#open.texts.push(text);
    this.#open.bytes += bytes;
  }

  #close() {
    if (!this.#open) return;
    const { era, texts, bytes } = this.#open;
    const id = `${this.to.source}/${String(this.#made++).padStart(9, 0)}`;
    const row = { ...this.to, id, era, bytes, count: texts.length, events: texts.join() };
    this.#open = null;
    this.#bytes += bytes;
    this.rows.push(row);
    this.#keep((store) => store.put(row));
    if (this.#bytes > QUEUED_BYTES) this.#forget([this.#waiting()[0]]);
    if (!this.#timer && !this.#busy) this.#later();
  }

  #forget(rows) {
    for (const row of rows) this.#bytes -= row.bytes;
    this.rows = this.rows.filter((row) => !rows.includes(row));
    this.#keep((store) => rows.forEach((row) => store.delete(row.id)));
    if (!this.rows.length) this.onempty?.();
  }

  #waiting() {
    return this.rows.filter((row) => !this.#going.includes(row));
  }

  /** The first of these that go together: of one clock, and few enough to outlive the page. */
  #batch(rows, most = BATCH_BYTES) {
    let count = 0;
    let bytes = 0;
    const end = rows.findIndex((row) => {
      count += row.count;
      bytes += row.bytes;
      return count > BATCH_EVENTS || bytes > most || row.era.offset !== rows[0].era.offset;
    });
    return rows.slice(0, end < 0 ? rows.length : Math.max(1, end));
  }

  #body(rows) {
    const { source, token } = this.to;
    const clock = [rows[0]?.era, this.clock.era].find((era) => era?.offset !== undefined);
    const head = JSON.stringify({ source, token, sent_at: now(), clock });
    return `${head.slice(0, -1)},"events":[${rows.map((row) => row.events)}]}`;
  }

  /** All that is there goes now. */
  flush() {
    this.#close();
    this.#failures = 0;
    this.#hurry = true;
    if (!this.#busy) this.#later(0);
  }

  #later(ms = this.#last + EVERY_MS - performance.now()) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), ms);
  }

  async #send() {
    // Times that nobody can correct are worth little: where the clock is not known, an empty batch asks for it.
    const asks = !("uncertainty" in this.clock.era);
    this.#going = asks ? [] : this.#batch(this.rows);
    this.#hurry = asks || this.#going.length < this.rows.length;
    this.#busy = true;
    this.#timer = 0;
    this.#last = performance.now();
    const wait = asks || this.#going.length ? await this.#post(this.#going) : 0;
    this.#busy = false;
    this.#going = [];
    if (this.rows.length) this.#later(wait || (this.#hurry ? 0 : undefined));
  }

  /** In how many ms to try again; 0 when all was taken. */
  async #post(rows) {
    if (this.to.expires_at - now() < EXPIRES_MS) await this.#renewed();
    const answer = await this.#fetch(this.#body(rows));
    const refused = [401, 403].includes(answer?.status);
    // 422: each event was looked at, and none can be taken. And what a page left whose token is over never will be.
    if (answer?.ok || answer?.status === 422 || (refused && !(await this.#renewed()) && this.left)) {
      this.#failures = 0;
      this.#forget(rows);
      return 0;
    }
    const backoff = Math.min(SLOWEST_MS, EVERY_MS << this.#failures++) * (0.5 + Math.random() / 2);
    return Math.max(backoff, 1_000 * answer?.headers.get("retry-after") || 0);
  }

  async #fetch(body) {
    const { era } = this.clock;
    const sent = now();
    const bytes = bytesOf(body);
    const keepalive = inFlight + bytes <= BUDGET;
    if (keepalive) inFlight += bytes;
    try {
      const signal = AbortSignal.timeout(SLOWEST_MS);
      const answer = await fetch(this.to.url, { method: "POST", body, keepalive, credentials: "omit", signal });
      this.clock.learn(+answer.headers.get("x-otel-voice-time"), sent, era);
      return answer;
    } catch {
      return null; // nobody there: tried again
    } finally {
      if (keepalive) inFlight -= bytes;
    }
  }

  async #renewed() {
    try {
      const { session_id, token, expires_at } = await this.renew(this.to.session_id);
      const fits = token && session_id === this.to.session_id;
      if (fits) Object.assign(this.to, { token, expires_at });
      return fits;
    } catch {
      return false; // the app gives none
    }
  }

  /** The page goes away, perhaps for good. What a beacon takes stays kept, for nobody reads its answer; the newest go
   * first, for they may not be kept yet. */
  leave() {
    this.#close();
    for (let rows = this.#waiting().reverse(), batch; rows.length; rows = rows.slice(batch.length)) {
      batch = this.#batch(rows, BUDGET - ENVELOPE_BYTES - inFlight);
      const body = this.#body(batch);
      const bytes = bytesOf(body);
      if (inFlight + bytes > BUDGET || !navigator.sendBeacon(this.to.url, body)) return;
      inFlight += bytes;
    }
  }

  /** The page is here again, and what went when it left is through. */
  back() {
    inFlight = 0;
    this.flush();
  }
}
