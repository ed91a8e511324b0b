import { useLayoutEffect, useState, useSyncExternalStore } from "react";
import { instrument } from "./gemini-live.js";
import { VoiceTrace } from "./otel-voice.js";

const EARLY = 2_000; // messages that are kept while the token is on its way, some minutes of a call

class Shown extends VoiceTrace {
  onend = () => {};

  end(reason, at) {
    super.end(reason, at);
    this.onend();
  }
}

/** A component's trace, at most one at a time. It outlives renders, and effects that are undone and done again. */
class Call {
  trace = null;
  options;
  #started = null; // what start() answered, until the end
  #early = null; // what is to be told to the trace as soon as it is there
  #changed = () => {};
  #leaving;
  #gone = false;
  #client;
  #undo;

  start = (made) => {
    if (this.#gone) return Promise.resolve(null);
    if (!this.#started) {
      const early = (this.#early = []);
      this.#started = this.#begin(made, early);
    }
    return this.#started;
  };

  stop = (reason) => {
    const why = typeof reason === "string" ? reason : "user_hangup"; // onClick={stop} gives an event
    if (this.trace) return this.trace.end(why);
    const at = performance.now();
    this.#early?.push((trace) => trace.end(why, at));
    this.#over();
  };

  async #begin(made, early) {
    await null; // what fails at once fails when `start` has noted this promise
    const { token, ...options } = this.options;
    try {
      const answer = made?.session_id ? made : await token(); // onClick={start}, too
      if (!answer?.events_url) throw new Error("token() did not give what POST /v1/sessions answered");
      const trace = new Shown(answer, options);
      for (const tell of early) tell(trace);
      if (this.#early !== early) return null; // stopped meanwhile
      trace.onend = () => this.trace === trace && this.#over();
      this.#show(trace);
      return trace;
    } catch (error) {
      console.warn("otel-voice: this call is not traced:", error);
      if (this.#early === early) this.#over();
      return null;
    }
  }

  #show(trace) {
    this.trace = trace;
    this.#early = null;
    this.#changed();
  }

  #over() {
    this.#started = null;
    this.#show(null);
  }

  // The component's life

  subscribe = (changed) => {
    clearTimeout(this.#leaving);
    this.#gone = false;
    this.#changed = changed;
    return () => {
      this.#changed = () => {};
      // What React undoes only to do it again at once, as in StrictMode, takes this back.
      this.#leaving = setTimeout(() => this.#leave());
    };
  };

  #leave() {
    this.#gone = true;
    this.stop("user_hangup");
    this.watch(null);
  }

  watch(client) {
    if (client === this.#client) return;
    this.#undo?.();
    this.#client = client;
    this.#undo = client ? instrument(client, this) : null;
  }

  // What `instrument` tells: it goes to the trace, or waits for it

  #tell(what) {
    if (this.trace) what(this.trace);
    else if (this.#early?.length < EARLY) this.#early.push(what);
  }

  event(type, fields, at = performance.now()) {
    if (this.trace) return this.trace.event(type, fields, at);
    this.quietly(() => {
      const said = JSON.parse(JSON.stringify(fields)); // as it is now
      this.#tell((trace) => trace.event(type, said, at));
    });
  }

  forward(provider, dir, message) {
    if (message.setup) this.start(); // a connection's first message
    this.event("provider_message", { provider, dir, message });
  }

  error(error, fields) {
    this.event("error", { message: String(error?.message ?? error), ...fields });
  }

  quietly(run) {
    if (this.trace) return this.trace.quietly(run);
    try {
      return run();
    } catch (error) {
      this.error(error, { code: "client" });
    }
  }

  opened() {
    this.start();
    this.#tell((trace) => trace.opened());
  }

  closed(reason) {
    this.#tell((trace) => trace.closed(reason));
  }

  beforeEnd() {
    return () => {}; // of Gemini's messages nothing is held back
  }
}

function useCall(options = {}) {
  const [call] = useState(() => new Call());
  call.options ??= options;
  useLayoutEffect(() => {
    call.options = options;
  });
  const trace = useSyncExternalStore(call.subscribe, () => call.trace, () => null);
  return [call, { trace, start: call.start, stop: call.stop }];
}

/** A trace of what this component does: {trace, start, stop}. It ends when the component goes. */
export function useVoiceTrace(options) {
  return useCall(options)[1];
}

/** Traces the calls of a GenAILiveClient, each from its connection on. */
export function useGeminiLiveTrace(client, options) {
  const [call, hook] = useCall(options);
  useLayoutEffect(() => call.watch(client ?? null), [call, client]);
  return hook;
}
