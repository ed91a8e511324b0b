import { now } from "./clock.js";
import { Rows, bytesOf } from "./rows.js";

const EVERY_MS = 1_000; // a POST at most
const RENEW_MS = 2_000;
const SLOWEST_MS = 30_000;
const LATEST_MS = 600_000;
const EXPIRES_MS = 60_000;
const ENVELOPE_BYTES = 1_000;
const LEFT_TRIES = 5; // then the next page may try
// Of all that may outlive the page, the app's own requests too: browsers draw the line at 64 KiB.
const BUDGET = 60_000;
const SMALL = 8_000;
let inFlight = 0;
let beaconed = 0;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One source's events on their way, in rows that are kept until an answer to them was read. */
export class Sending {
  onempty = () => {};
  #going = []; // rows whose answer is waited for
  #outlives = false;
  #busy = false;
  #hurry = false;
  #last = 0;
  #notBefore = 0;
  #timer;
  #failures = 0;
  #renewing;
  #warned = false;

  /** `to`: {source, session_id, url, token, expires_at}. `left`: rows of a page that is gone. */
  constructor(to, clock, renew, kept, left) {
    Object.assign(this, { to, clock, renew, left, rows: new Rows(to, clock, kept, left ?? []) });
    this.rows.onclose = () => {
      this.rows.shed(this.#going);
      if (!this.#timer && !this.#busy) this.#later(this.#last + EVERY_MS - performance.now());
    };
  }

  #body(rows) {
    const { source, token } = this.to;
    const clock = [rows[0]?.era, this.clock.era].find((era) => era?.offset !== undefined);
    const head = JSON.stringify({ source, token, sent_at: now(), clock });
    return `${head.slice(0, -1)},"events":[${rows.map((row) => row.events)}]}`;
  }

  /** All that is there goes now. */
  flush() {
    this.rows.close();
    this.#failures = 0;
    this.#hurry = true;
    if (!this.#busy) this.#later(0);
  }

  #later(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), Math.max(ms, this.#notBefore - performance.now()));
  }

  async #send() {
    // Times that nobody can correct are worth little: where the clock is not known, an empty batch asks for it.
    const asks = !("uncertainty" in this.clock.era);
    this.#going = asks ? [] : this.rows.batch(this.rows.all);
    this.#hurry = asks || this.#going.length < this.rows.all.length;
    this.#busy = true;
    this.#timer = 0;
    this.#last = performance.now();
    const again = asks || this.#going.length ? await this.#post(this.#going) : 0;
    this.#busy = false;
    this.#going = [];
    if (this.left && this.#failures >= LEFT_TRIES) this.onempty();
    else if (this.rows.all.length) this.#later(again || (this.#hurry ? 0 : this.#last + EVERY_MS - performance.now()));
  }

  /** In how many ms to try again; 0 when it was taken. */
  async #post(rows) {
    const ends = this.to.expires_at - now() - (this.clock.era.offset ?? 0);
    if (ends < EXPIRES_MS) await Promise.race([this.#renewed(), wait(RENEW_MS)]);
    const answer = await this.#fetch(this.#body(rows));
    if (await this.#isDone(answer, rows)) {
      this.#failures = 0;
      this.rows.atOnce = Infinity;
      this.rows.forget(rows);
      if (!this.rows.all.length) this.onempty();
      return 0;
    }
    const backoff = Math.min(SLOWEST_MS, EVERY_MS << Math.min(9, this.#failures++)) * (0.5 + Math.random() / 2);
    const asked = Math.min(LATEST_MS, 1_000 * answer?.headers.get("retry-after") || 0);
    this.#notBefore = performance.now() + asked;
    return Math.max(backoff, asked);
  }

  /** Whether these need no other try: they were taken, or never will be. */
  async #isDone(answer, rows) {
    const status = answer?.status;
    if (!status || status === 204) return status;
    if (answer.ok || status === 422) return this.#warn(answer);
    if ([400, 413].includes(status)) {
      this.rows.atOnce = Math.ceil(rows.length / 2);
      return rows.length === 1 && this.#warn(answer);
    }
    const isHopeless = [401, 403].includes(status) && (await this.#renewed()) === false;
    return isHopeless && this.#warn(answer) && this.left;
  }

  /** Once: a developer is to see it, and the console not to be filled. */
  #warn(answer) {
    if (this.#warned) return true;
    this.#warned = true;
    const { status } = answer;
    const tell = ({ error, rejected }) => console.warn("otel-voice: refused:", rejected?.[0].error ?? error ?? status);
    answer.json().then(tell, () => tell({}));
    return true;
  }

  async #fetch(body) {
    const { era } = this.clock;
    const sent = now();
    const bytes = bytesOf(body);
    // The app's own requests need the budget, too; and what failed for it may go without.
    const most = this.left || this.#failures ? 0 : document.hidden ? BUDGET - inFlight - beaconed : SMALL;
    const keepalive = (this.#outlives = bytes <= most);
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

  /** Whether there is another token; undefined where the app's backend fails to say. */
  #renewed() {
    return (this.#renewing ??= this.#ask().finally(() => {
      this.#renewing = undefined;
    }));
  }

  async #ask() {
    if (!this.renew) return false;
    try {
      const { session_id, token, expires_at } = await Promise.race([this.renew(this.to.session_id), wait(SLOWEST_MS)]);
      const fits = !!token && session_id === this.to.session_id;
      if (fits) Object.assign(this.to, { token, expires_at });
      return fits;
    } catch {
      return undefined;
    }
  }

  /** The page goes away, perhaps for good. What a beacon takes stays kept, for nobody reads its answer; the newest go
   * first, for they may not be kept yet. */
  leave() {
    this.rows.close();
    const stay = this.#outlives ? this.#going : [];
    let rows = this.rows.all.filter((row) => !stay.includes(row)).reverse();
    while (rows.length) {
      const batch = this.rows.batch(rows, BUDGET - ENVELOPE_BYTES - inFlight - beaconed);
      const body = this.#body(batch);
      const bytes = bytesOf(body);
      if (inFlight + beaconed + bytes > BUDGET || !navigator.sendBeacon(this.to.url, body)) return;
      beaconed += bytes;
      rows = rows.slice(batch.length);
    }
  }

  /** The page is here again, and what went when it left is through. */
  back() {
    beaconed = 0;
    this.flush();
  }
}
