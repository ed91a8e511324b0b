import { Clock, now } from "./clock.js";
import { Kept } from "./kept.js";
import { Sending } from "./sending.js";

const RECONNECT_MS = 5_000;
const EVENT_CHARS = 200_000; // the receiver takes no longer texts
const FAULTS = 5;
const BEFORE = "otel-voice"; // in sessionStorage: the session that this tab has not ended

// By hand: a method's type of event, and the fields that its arguments stand for.
const BY_HAND = {
  turnStart: ["turn_start", (turn_id) => ({ turn_id })],
  turnComplete: ["turn_complete", (turn_id, fields) => ({ turn_id, ...fields })],
  toolCall: ["tool_call", (call_id, name, args, fields) => ({ call_id, name, arguments: args, ...fields })],
  toolResult: ["tool_result", (call_id, outcome, fields) => ({ call_id, ...outcome, ...fields })],
  transcript: ["transcript", (role, text, fields) => ({ role, text, ...fields })],
  userSpeechStart: ["user_speech_start"],
  userSpeechEnd: ["user_speech_end"],
  agentSpeechStart: ["agent_speech_start"],
  agentSpeechEnd: ["agent_speech_end"],
  responseStart: ["response_start"],
  responseEnd: ["response_end"],
  interrupted: ["interrupted"],
  error: ["error", (error, fields) => ({ message: String(error?.message ?? error), ...fields })],
  mark: ["mark", (name, attributes) => ({ name, attributes })],
  forward: ["provider_message", (provider, dir, message) => ({ provider, dir, message })],
};

/** One voice session as its page sees it. Nothing here throws into the page, makes it wait or blocks it. */
export class VoiceTrace {
  #made = {};
  #options = {};
  #source = crypto.getRandomValues(new Uint32Array(4)).join("-");
  #clock = new Clock();
  #sending;
  #seq = 0;
  #faults = 0;
  #ended = false;
  #connections = 0;
  #closing;
  #lost;
  #befores = new Set();
  #watches = new Set();
  #releases = new Set();

  /** `made` is what POST /v1/sessions answered. Options: renew(session_id), propagateTo: [origin]. */
  constructor(made, options = {}) {
    this.quietly(() => {
      this.#made = { ...made };
      this.#options = { ...options };
      this.sessionId = this.#made.session_id;
      this.traceId = this.#made.trace_id;
      if (this.#made.events_url) this.#begin();
      else console.warn("otel-voice: nothing is traced, for POST /v1/sessions does not answer so:", made);
    });
  }

  #begin() {
    const { session_id, events_url: url, token, expires_at } = this.#made;
    const to = { source: this.#source, session_id, url, token, expires_at };
    this.#sending = new Sending(to, this.#clock, this.#options.renew);
    const before = this.#remember(session_id);
    if (before && before !== session_id) this.event("session_start", { previous_session_id: before });
    this.#hold(this.#source);
    this.#keep();
    const life = new AbortController();
    const on = (target, type, run) =>
      target.addEventListener(type, (event) => this.quietly(() => run(event)), { signal: life.signal });
    on(window, "pagehide", () => this.#leave());
    on(window, "pageshow", ({ persisted }) => persisted && this.#back());
    on(window, "online", () => this.#sending.flush());
    on(document, "visibilitychange", () => document.hidden && this.#sending.flush());
    this.#sending.onempty = () => {
      if (!this.#ended) return;
      life.abort();
      this.#release();
    };
    this.#sending.flush();
  }

  #remember(session_id) {
    try {
      const before = sessionStorage.getItem(BEFORE);
      if (session_id) sessionStorage.setItem(BEFORE, session_id);
      else sessionStorage.removeItem(BEFORE);
      return before;
    } catch {
      return null; // the user forbids storage
    }
  }

  /** While a page lives, it holds its source's lock; another page that gets it sends what this one left. */
  #hold(source, options = {}, use = () => {}) {
    const held = (lock) =>
      lock &&
      new Promise((release) => {
        this.#releases.add(release);
        use(release);
      });
    if (navigator.locks) navigator.locks.request(`otel-voice/${source}`, options, held).catch(() => {});
    else held(use);
  }

  async #keep() {
    try {
      const kept = await Kept.open();
      this.#sending.keepIn(kept);
      const left = {};
      for (const row of await kept.all()) if (row.source !== this.#source) (left[row.source] ??= []).push(row);
      for (const rows of Object.values(left)) {
        this.#hold(rows[0].source, { ifAvailable: true }, (release) => {
          const sending = new Sending(rows.at(-1), this.#clock, this.#options.renew, kept, rows);
          sending.onempty = release;
          sending.flush();
        });
      }
    } catch (error) {
      this.mark("kept_in_memory_only", { why: String(error) });
    }
  }

  // The page's life

  #leave() {
    for (const before of this.#befores) this.quietly(before);
    if (this.#closing) this.#end(...this.#closing);
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
    if (this.#connections) this.end("provider_closed");
    else this.mark("page_shown_again");
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
    this.#closing = [this.#lost ?? reason, at, setTimeout(() => this.end(reason, at), RECONNECT_MS)];
  }

  /** Something that ends the session if nothing else explains its end. */
  lost(reason) {
    this.#lost = reason;
    this.mark(reason);
  }

  beforeEnd(before) {
    this.#befores.add(before);
  }

  end(reason, at) {
    this.quietly(() => {
      if (this.#ended) return;
      for (const before of this.#befores) this.quietly(before);
      this.#end(this.#lost ?? reason ?? "user_hangup", at);
      this.#sending.flush();
    });
  }

  #end(reason, at) {
    this.#ended = true;
    clearTimeout(this.#closing?.[2]);
    for (const stop of this.#watches) this.quietly(stop);
    this.#remember();
    this.#say(reason, at);
  }

  #say(reason, at) {
    this.#event("session_end", { reason, last_seq: this.#seq }, at);
  }

  // Events

  event(type, fields, at) {
    this.quietly(() => this.#event(type, fields, at));
  }

  #event(type, fields, at = performance.now()) {
    if (!this.#sending) return;
    const ts = Math.round((performance.timeOrigin + at) * 10) / 10;
    const text = JSON.stringify({ type, seq: this.#seq, ts, ...fields });
    if (text.length > EVENT_CHARS) throw new Error(`${type}: ${text.length} characters are too many`);
    this.#seq += 1;
    this.#sending.add(text);
  }

  /** Runs ours beside the page's own: what it throws goes on the trace, not into the page. */
  quietly(run) {
    try {
      return run();
    } catch (error) {
      const message = error instanceof Error ? error.message : typeof error;
      if (this.#faults++ < FAULTS) this.#event("error", { code: "client", message });
    }
  }

  // What the user heard

  audioOutput(target) {
    return this.#watch("output", target);
  }

  audioInput(stream) {
    return this.#watch("input", stream);
  }

  #watch(side, target) {
    let stopped = false;
    let stop = () => (stopped = true);
    const now = () => this.quietly(() => stop());
    this.#watches.add(now);
    import("./audible.js")
      .then(({ watchInput, watchOutput }) => {
        if (!stopped) stop = (side === "input" ? watchInput : watchOutput)(this, target);
      })
      .catch((error) => this.mark("audio_unmeasured", { what: side, why: String(error) }));
    return now;
  }

  // The trace's context for the app's own backend

  /** The context of a tool call, whose span is known before it exists; without a call, or without crypto, the session's. */
  async traceparent(callId) {
    const { trace_id, traceparent } = this.#made;
    if (callId === undefined || !crypto.subtle) return traceparent;
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${trace_id}/tool/${callId}`));
    const id = Array.from(new Uint8Array(digest, 0, 8), (byte) => byte.toString(16).padStart(2, 0)).join("");
    return `00-${trace_id}-${id}-01`;
  }

  /** fetch, with the header where it breaks nothing: elsewhere a preflight would refuse the app's own request. */
  async fetch(url, init, { callId } = {}) {
    const traceparent = await this.traceparent(callId).catch(() => {});
    const headers = this.quietly(() => {
      const { origin } = new URL(url.url ?? url, location.href);
      if (!traceparent || ![location.origin, ...(this.#options.propagateTo ?? [])].includes(origin)) return undefined;
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
