// What was audible: an analyser beside the sound, read every 50 ms. Nothing comes between a sound and its loudspeaker.

const SLICE = 10; // ms
const WINDOW = 32768; // samples, the most there is (0.7 s at 48 kHz): a late poll still sees every one

/** Bounds of sound in ms, from slices in order; `to` is until when it is known. */
export class Bounds {
  constructor(input, to, onStart, onEnd) {
    Object.assign(this, { input, to, onStart, onEnd, pause: input ? 600 : 400, noise: 1 });
  }

  hear(at, rms) {
    const missed = at - this.to >= (this.open ? this.pause : SLICE);
    if (missed) {
      this.close();
      this.sure = at + 200; // what is connected while it sounds comes through a little later
    }
    this.to = at + SLICE;
    this.noise = Math.max(0.0008, Math.min(rms, this.noise * 1.0005));
    // Silent playback is zero, a room is not.
    if (rms > (this.input ? 4 * this.noise : 0.001)) {
      // One loud slice is a click. Loud after a gap: when it began is not known.
      if (!this.open && at - this.loud < 25) this.onStart((this.start = this.loud));
      this.open ||= at < this.sure || this.start >= 0;
      this.loud = at;
    } else if (at - this.loud >= this.pause) this.close();
  }

  close(to = this.to) {
    const { start, loud } = this;
    this.open = this.start = this.loud = undefined;
    this.to = to;
    if (start >= 0) this.onEnd(loud + SLICE, loud + SLICE - start);
  }
}

/** hear(ms, RMS) for each whole slice of the frames from..to, where `samples` end; returns where to go on. */
export function slices(samples, from, to, rate, hear) {
  const size = Math.round((rate * SLICE) / 1000);
  for (from = Math.max(from, to - samples.length); from + size <= to; from += size) {
    const at = samples.length - to + from;
    let power = 0;
    for (let i = at; i < at + size; i++) power += samples[i] ** 2;
    hear((from / rate) * 1000, Math.sqrt(power / size));
  }
  return from;
}

const samples = new Float32Array(WINDOW);
const polls = new Set();
let timer;
let own; // the context of streams, which have none

/** performance.now() of the context's time 0: when sound is heard, or taken in. */
function origin(context, input) {
  const { contextTime, performanceTime } = (!input && context.getOutputTimestamp?.()) || {};
  if (contextTime) return performanceTime - contextTime * 1000;
  return performance.now() + (((!input && context.outputLatency) || 0) - context.currentTime) * 1000;
}

/** Watches a node, element, stream or what a function gives; times are performance.now()'s. Returns what stops it. */
export function watch(target, { onStart, onEnd, onUnmeasurable, onLost }, { input, beforeEnd } = {}) {
  const inputs = new Map();
  const told = new Set();
  let source, context, analyser, idle, bounds, seen, zero, copy, polled, ran;

  function tell(why) {
    if (!told.has(why)) onUnmeasurable(why);
    told.add(why);
  }

  function streamOf(element) {
    if (element.srcObject?.getAudioTracks) return element.srcObject;
    if (copy || !element.readyState) return copy;
    // Firefox gives the stream in place of the sound, not beside it.
    const copies = element.captureStream && !/Firefox/.test(navigator.userAgent);
    return copies ? (copy = element.captureStream()) : tell("no copy of an element's sound here");
  }

  function connect(node, key = node) {
    inputs.set(key, node);
    node.connect(analyser);
  }

  function attach(next) {
    bounds?.close();
    for (const node of inputs.values()) {
      try {
        node.disconnect(analyser);
      } catch {} // the page has done it
    }
    idle?.stop();
    inputs.clear();
    source = next;
    bounds = null;
    if (source && source.context?.state !== "closed") listen(source.context ?? (own ??= new AudioContext()));
  }

  function listen(to) {
    context = to;
    ran = performance.now();
    seen = Math.round(context.currentTime * context.sampleRate);
    analyser = new AnalyserNode(context, { fftSize: WINDOW });
    // Without an input WebKit's analyser stands still, showing its last samples.
    idle = new ConstantSourceNode(context, { offset: 0 });
    idle.start();
    connect(idle);
    if (context !== own) connect(source);
    const by = !input && (context !== own || source === copy) ? "playback" : "energy";
    bounds = new Bounds(
      input,
      polled ? context.currentTime * 1000 : -Infinity,
      (at) => onStart(zero + at, by),
      (at, heardMs) => onEnd(zero + at, heardMs, by),
    );
    read();
  }

  // A source node takes a stream's first track, and none that comes later.
  function follow(track) {
    if (inputs.has(track)) return;
    connect(context.createMediaStreamSource(new MediaStream([track])), track);
    track.addEventListener("ended", () => inputs.has(track) && onLost?.());
  }

  function read(silent) {
    const { currentTime, sampleRate, state } = context;
    if (context === own) source.getAudioTracks().forEach(follow);
    if (state === "running") zero = origin(context, input);
    analyser.getFloatTimeDomainData(samples);
    const hear = (at, rms) => bounds.hear(at, silent ? 0 : rms);
    seen = slices(samples, seen, Math.round(currentTime * sampleRate), sampleRate, hear);
    if (state !== "running") pause(state);
    else ran = performance.now();
  }

  // Nothing is heard of a page's context that stands still. What goes on in a stream meanwhile is not known.
  function pause(state) {
    bounds.close(context === own ? -Infinity : context.currentTime * 1000);
    if (performance.now() - ran > 3000 && state !== "closed") tell(`AudioContext ${state}`);
    // Before a gesture each promise would stay pending.
    if (context === own && navigator.userActivation?.hasBeenActive !== false) own.resume().catch(() => {});
  }

  function poll() {
    try {
      const given = typeof target === "function" ? target() : target;
      const next = given?.canPlayType ? streamOf(given) : given;
      if (bounds) read(given?.paused || given?.muted || given?.volume === 0); // of the old one too, to its end
      if (next !== source) attach(next);
      polled = true;
    } catch (error) {
      tell(String(error));
    }
  }

  polls.add(poll);
  timer ??= setInterval(() => polls.forEach((each) => each()), 50);
  poll();
  const forget = beforeEnd?.(() => {
    poll();
    bounds?.close(-Infinity);
  });
  return () => {
    if (!polls.has(poll)) return;
    poll();
    attach();
    forget?.();
    polls.delete(poll);
    if (polls.size) return;
    timer = clearInterval(timer);
    own?.close();
    own = null;
  };
}

function report(trace, who, what, target, onLost) {
  const bound = (edge, at, fields) => trace.event(`${who}_speech_${edge}`, fields, at);
  const on = {
    onStart: (at, measured_by) => bound("start", at, { measured_by }),
    onEnd: (at, ms, measured_by) => bound("end", at, { measured_by, heard_ms: onLost ? undefined : ms }),
    onUnmeasurable: (why) => trace.mark("audio_unmeasured", { what, why }),
    onLost,
  };
  return watch(target, on, { input: onLost, beforeEnd: (flush) => trace.beforeEnd?.(flush) });
}

export const watchOutput = (trace, target) => report(trace, "agent", "output", target);
export const watchInput = (trace, stream) =>
  report(trace, "user", "input", stream, () => trace.lost?.("microphone_lost"));
