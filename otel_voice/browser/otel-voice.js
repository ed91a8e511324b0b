import { Clock } from "./clock.js";
import { Kept } from "./kept.js";
import { Sending } from "./sending.js";

const RECONNECT_MS = 5_000;
const EVENT_CHARS = 200_000; // the receiver takes no longer texts
const FAULTS = 5;
const EARLY = 2_000;
const BEFORE = "otel-voice"; // in sessionStorage: the session that this tab has not ended

// By hand: a method's type of event, and the fields that its arguments stand for.
const BY_HAND = {
  turnStart: ["turn_start", (turn_id) => ({ turn_id })],
  turnComplete: ["turn_complete", (turn_id, fields) => ({ turn_id, ...fields })],
  toolCall: ["tool_call", (call_id, name, args, fields) => ({ call_id, name, arguments: args, ...fields })],
  toolResult: ["tool_result", (call_id, outcome, fields) => ({ call_id, ...outcomeOf(outcome), ...fields })],
  transcript: ["transcript", (role, text, fields) => ({ role, text, ...fields })],
  userSpeechStart: ["user_speech_start"],
  userSpeechEnd: ["user_speech_end"],
  agentSpeechStart: ["agent_speech_start"],
  agentSpeechEnd: ["agent_speech_end"],
  responseStart: ["response_start"],
  responseEnd: ["response_end"],
  interrupted: ["interrupted"],
  error: ["error", (error, fields) => ({ message: String(error?.message ?? error), code: error?.name, ...fields })],
  mark: ["mark", (name, attributes) => ({ name, attributes })],
  forward: ["provider_message", (provider, dir, message) => ({ provider, dir, message })],
};

const outcomeOf = (outcome) => (outcome instanceof Error ? { error: String(outcome) } : outcome);

/** One voice session as its page sees it. Nothing here throws into the page, makes it wait or blocks it. */
export class VoiceTrace {
  #made = {};
  #options = {};
  #source = crypto.getRandomValues(new Uint32Array(4)).join("-");
  #clock = new Clock();
  #sending;
  #early = []; // what came before the session did
  #seq = 0;
  #faults = 0;
  #ended = false;
  #connections = 0;
  #closing;
  #lost;
  #befores = new Set();
  #watches = new Set();
  #releases = new Set();
  #asked;
  #isUnkept = false;
  #life = new AbortController();

  /** `made` is what POST /v1/sessions answered, or a promise of it. Options: renew(session_id), propagateTo: [origin]. */
  constructor(made, options = {}) {
    this.quietly(() => {
      this.#options = { ...options };
      const begin = (found) => this.quietly(() => this.#begin(found));
      this.#asked = typeof made?.then === "function" ? made.then(begin, begin) : begin(made);
    });
  }

  #begin(made) {
    const { session_id, trace_id, events_url: url, token, expires_at } = (this.#made = { ...made });
    if (!url) {
      this.#early = { push() {} };
      console.warn("otel-voice: not traced: no answer of POST /v1/sessions:", made);
      return;
    }
    this.sessionId = session_id;
    this.traceId = trace_id;
    const to = { source: this.#source, session_id, url, token, expires_at };
    this.#sending = new Sending(to, this.#clock, this.#options.renew);
    this.#sending.rows.onunkept = (error) => this.#unkept(error);
    for (const text of this.#early) this.#sending.rows.add(text);
    this.#follow(this.#remember(session_id), session_id);
    this.#hold(this.#source);
    this.#hold(session_id);
    this.#keep();
    const on = (target, type, run) =>
      target.addEventListener(type, (event) => this.quietly(() => run(event)), { signal: this.#life.signal });
    on(window, "pagehide", () => this.#leave());
    on(window, "pageshow", ({ persisted }) => persisted && this.#back());
    on(window, "online", () => this.#sending.flush());
    on(document, "visibilitychange", () => document.hidden && this.#sending.flush());
    this.#sending.onempty = () => this.#rest();
    this.#sending.flush();
  }

  /** Nothing is left to do for a session that has ended. */
  #rest() {
    if (!this.#ended || this.#sending.rows.all.length) return;
    this.#life.abort();
    this.#release();
  }

  #remember(session_id) {
    try {
      const before = sessionStorage.getItem(BEFORE);
      if (session_id) sessionStorage.setItem(BEFORE, session_id);
      else if (before === this.sessionId) sessionStorage.removeItem(BEFORE);
      return before;
    } catch {
      return null; // the user forbids storage
    }
  }

  /** This page's session follows the one its tab had, unless that goes on in the tab which this one is a copy of. */
  #follow(previous_session_id, session_id) {
    if (!previous_session_id || previous_session_id === session_id) return;
    this.#hold(previous_session_id, { ifAvailable: true }, (release) => {
      release();
      this.event("session_start", { previous_session_id });
    });
  }

  /** A lock as long as the page lives: of its session, and of its source, for whoever gets that sends what is left. */
  async #hold(name, options = {}, use = () => {}) {
    const held = (lock) =>
      lock &&
      new Promise((release) => {
        this.#releases.add(release);
        use(release);
      });
    await (navigator.locks ? navigator.locks.request(`otel-voice/${name}`, options, held) : held(use));
  }

  async #keep() {
    try {
      const kept = await Kept.open();
      this.#sending.rows.keepIn(kept);
      const left = {};
      for (const row of await kept.all()) if (row.source !== this.#source) (left[row.source] ??= []).push(row);
      for (const [source, rows] of Object.entries(left)) {
        await this.#hold(source, { ifAvailable: true }, (release) => {
          const sending = new Sending(rows.at(-1), this.#clock, this.#options.renew, kept, rows);
          sending.onempty = release;
          sending.flush();
        });
      }
    } catch (error) {
      this.#unkept(error);
    }
  }

  #unkept(error) {
    if (!this.#isUnkept) this.mark("kept_in_memory_only", { why: String(error) });
    this.#isUnkept = true;
  }

  // The page's life

  #leave() {
    for (const before of this.#befores) this.quietly(before);
    if (this.#closing) this.end(...this.#closing);
    else if (!this.#ended) this.#say("page_closed");
    this.#sending.leave();
    this.#release();
  }

  #release() {
    for (const release of this.#releases) release();
    this.#releases.clear();
  }

  /** Back from the cache: the page is as it was, but its connections are dead. */
  #back() {
    this.#hold(this.#source);
    this.#hold(this.sessionId);
    if (this.#connections) this.end("provider_closed");
    else this.mark("page_shown");
    this.#sending.back();
  }

  opened() {
    this.#connections += 1;
    clearTimeout(this.#closing?.[2]);
    this.#closing = null;
  }

  closed(reason) {
    this.#connections -= this.#connections > 0;
    if (this.#connections || this.#closing || this.#ended) return;
    const at = performance.now();
    const why = this.#lost ?? reason;
    this.#closing = [why, at, setTimeout(() => this.end(why, at), RECONNECT_MS)];
  }

  /** Something that ends the session if nothing else explains its end. */
  lost(reason) {
    this.#lost = reason;
    this.mark(reason);
  }

  /** Gives back what takes it back. */
  beforeEnd(before) {
    this.#befores.add(before);
    return () => this.#befores.delete(before);
  }

  end(reason, at) {
    this.quietly(() => {
      if (this.#ended) return;
      for (const before of this.#befores) this.quietly(before);
      for (const stop of this.#watches) this.quietly(stop);
      clearTimeout(this.#closing?.[2]);
      this.#closing = null;
      this.#ended = true;
      this.#remember();
      this.#say(reason ?? this.#lost ?? "user_hangup", at);
      this.#sending?.flush();
    });
  }

  #say(reason, at) {
    this.#event("session_end", { reason, last_seq: this.#seq }, at);
  }

  // Events

  event(type, fields, at) {
    this.quietly(() => this.#event(type, fields, at));
  }

  #event(type, fields, at = performance.now()) {
    if (this.#ended && type === "provider_message") return;
    const ts = Math.round((performance.timeOrigin + at) * 10) / 10;
    const text = JSON.stringify({ ...fields, type, seq: this.#seq, ts });
    if (text.length > EVENT_CHARS) throw new Error(`${type} is too long`);
    this.#seq += 1;
    if (this.#sending) this.#sending.rows.add(text);
    else if (this.#seq < EARLY) this.#early.push(text);
  }

  /** Runs ours beside the page's own: what it throws goes to the console and the trace, not into the page. */
  quietly(run) {
    try {
      return run();
    } catch (error) {
      const message = (error instanceof Error ? error.message : typeof error).slice(0, 1_000);
      if (this.#faults++ >= FAULTS) return undefined;
      console.warn("otel-voice:", error);
      this.#event("error", { code: "client", message });
    }
  }

  // What the user heard

  audioOutput(target) {
    return this.#watch("watchOutput", target);
  }

  audioInput(stream) {
    this.#lost = undefined;
    return this.#watch("watchInput", stream);
  }

  #watch(watch, target) {
    let stopped = this.#ended;
    let stop = () => (stopped = true);
    const now = () => this.#watches.delete(now) && this.quietly(() => stop());
    this.#watches.add(now);
    import("./audible.js")
      .then((audible) => stopped || (stop = audible[watch](this, target)))
      .catch((error) => this.mark("audio_unmeasured", { what: watch, why: String(error) }));
    return now;
  }

  // The trace's context for the app's own backend

  /** The context of a tool call, whose span is known before it exists; without a call, or without crypto, the session's. */
  async traceparent(callId) {
    await this.#asked;
    const { trace_id, traceparent } = this.#made;
    if (callId === undefined || !crypto.subtle) return traceparent;
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${trace_id}/tool/${callId}`));
    const id = Array.from(new Uint8Array(digest, 0, 8), (byte) => byte.toString(16).padStart(2, 0)).join("");
    return `00-${trace_id}-${id}-01`;
  }

  /** fetch, with the header where it breaks nothing: elsewhere a preflight would refuse the app's own request. */
  async fetch(url, init, { callId } = {}) {
    // The app's own request waits for no session.
    const traceparent = this.#made.traceparent && (await this.traceparent(callId).catch(() => {}));
    const headers = traceparent && this.quietly(() => {
      const { origin } = new URL(url.url ?? url, document.baseURI);
      if (![location.origin, ...(this.#options.propagateTo ?? [])].includes(origin)) return undefined;
      const added = new Headers(init?.headers ?? url.headers);
      added.set("traceparent", traceparent);
      return added;
    });
    return fetch(url, headers ? { ...init, headers } : init);
  }
}

for (const [method, [type, fields = (given) => given]] of Object.entries(BY_HAND)) {
  VoiceTrace.prototype[method] = function (...given) {
    this.quietly(() => this.event(type, fields(...given)));
  };
}
