import { Connection, reduce, wrap } from "./allow.js";

const [string, boolean, count, id, json, marker] = ["string", "boolean", "count", "id", "json", "marker"];
const PARTS = [{ "": "text", text: string }];
const TRANSCRIPTION = { text: string, finished: boolean };
const DETAILS = [{ modality: string, tokenCount: count }];

/** What is forwarded of the protocol; otel_voice/adapters/allow_list.json has the same. */
export const ALLOW_LIST = {
  sent: {
    setup: { model: id, systemInstruction: { "": "parts", parts: PARTS } },
    clientContent: { turns: [{ "": "parts", role: string, parts: PARTS }], turnComplete: boolean },
    realtimeInput: { text: string, activityStart: marker, activityEnd: marker },
    toolResponse: { functionResponses: [{ id, name: id, response: json, scheduling: string, willContinue: boolean }] },
  },
  received: {
    setupComplete: { sessionId: id },
    serverContent: {
      modelTurn: {
        parts: [
          { thought: "alone", text: string, inlineData: marker, executableCode: marker, codeExecutionResult: marker },
        ],
      },
      inputTranscription: TRANSCRIPTION,
      outputTranscription: TRANSCRIPTION,
      generationComplete: boolean,
      interrupted: boolean,
      turnComplete: boolean,
      turnCompleteReason: string,
    },
    toolCall: { functionCalls: [{ id, name: id, args: json }] },
    toolCallCancellation: { ids: [id] },
    usageMetadata: {
      promptTokenCount: count,
      toolUsePromptTokenCount: count,
      cachedContentTokenCount: count,
      responseTokenCount: count,
      candidatesTokenCount: count,
      thoughtsTokenCount: count,
      totalTokenCount: count,
      promptTokensDetails: DETAILS,
      cacheTokensDetails: DETAILS,
      responseTokensDetails: DETAILS,
      candidatesTokensDetails: DETAILS,
    },
    goAway: { timeLeft: string },
    sessionResumptionUpdate: { resumable: boolean },
    voiceActivity: { voiceActivityType: string, audioOffset: string },
    error: { code: json, status: string, message: string },
  },
};

/** What is forwarded of a connection: of a response's audio the first chunk only. */
export class Forward {
  #heard = new Set();

  feed(dir, message) {
    const reduced = reduce(ALLOW_LIST, dir, message);
    return reduced && this.#isNews(reduced) ? [reduced] : [];
  }

  flush() {
    return []; // nothing is held back
  }

  #isNews({ serverContent = {}, ...others }) {
    const said = Object.keys({ ...others, ...serverContent });
    if (`${said}` !== "modelTurn") {
      if (said.some((key) => key !== "modelTurn" && key !== "outputTranscription")) this.#heard.clear();
      return true;
    }
    const { parts } = serverContent.modelTurn;
    const [first, ...rest] = parts.map((part) => JSON.stringify(part));
    if ("text" in parts[0] || rest.some((part) => part !== first)) return true;
    return this.#heard.size < this.#heard.add(first).size;
  }
}

// What @google/genai makes of what it is given

const contentOf = (given) => (Array.isArray(given?.parts) ? given : { role: "user", parts: given });
const contentsOf = (given) => (Array.isArray(given[0]?.parts) ? given : contentOf(given));

function modelOf(api, model) {
  const project = () => `projects/${api.getProject()}/locations/${api.getLocation()}/publishers/google/`;
  return /\//.test(model) ? model : `${api?.isVertexAI?.() ? project() : ""}models/${model}`;
}

const SENT = {
  sendClientContent: ({ turns, ...others } = {}) => ({
    clientContent: { turnComplete: true, ...others, turns: turns != null && contentsOf(turns) },
  }),
  // Fifty times a second it is audio and nothing else.
  sendRealtimeInput: (realtimeInput) =>
    (realtimeInput.text ?? realtimeInput.activityStart ?? realtimeInput.activityEnd) && { realtimeInput },
  sendToolResponse: (toolResponse) => ({ toolResponse }),
  send: (turns, turnComplete = true) => SENT.sendClientContent({ turns, turnComplete }),
};

class Recording extends Connection {
  #setup;
  #reason;

  constructor(trace, setup) {
    super(trace, "gemini-live", new Forward());
    this.#setup = setup;
  }

  onopen() {
    this.say("sent", { setup: this.#setup() });
  }

  onmessage(message) {
    if (message.goAway) this.#reason = "go_away";
    this.say("received", message);
  }

  onerror() {
    this.#reason ??= "error";
  }

  onclose() {
    this.closed(this.#reason ?? "provider_closed");
  }
}

function watch(trace, sender, recording, close) {
  for (const name in SENT) wrap(trace, sender, name, (...args) => recording().say("sent", SENT[name](...args)));
  wrap(trace, sender, close, null, () => recording().closed("user_hangup"));
}

async function connect(trace, live, dial, params) {
  const { model, config, callbacks: own } = params;
  const recording = new Recording(trace, () => ({
    model: modelOf(live.apiClient, model),
    systemInstruction: contentOf(config?.systemInstruction),
  }));
  const callbacks = { ...own };
  for (const name of ["onopen", "onmessage", "onerror", "onclose"]) {
    callbacks[name] = function (...args) {
      trace.quietly(() => recording[name](...args));
      return own?.[name]?.apply(this === callbacks ? own : this, args);
    };
  }
  try {
    const session = await dial.call(live, { ...params, callbacks });
    trace.quietly(() => {
      watch(trace, session, () => recording, "close");
    });
    return session;
  } catch (error) {
    trace.quietly(() => {
      trace.error(error);
      recording.closed("error");
    });
    throw error;
  }
}

/** `ai.live` whose connections are recorded. */
export function traceGeminiLive(trace, live) {
  return (
    trace.quietly(() => {
      const traced = Object.create(live);
      patchLive(traced, live).trace = trace;
      return traced;
    }) ?? live
  );
}

const patches = new WeakMap();

/** Records a GenAILiveClient's connections to this trace, until another is given or what is returned is called. */
export function instrument(client, trace) {
  const patch = trace.quietly(() => {
    const live = client.client?.live;
    const target = live ?? client;
    if (!patches.has(target)) patches.set(target, live ? patchLive(live, live) : listen(client));
    return patches.get(target);
  });
  if (patch) patch.trace = trace;
  return () => {
    if (patch?.trace === trace) patch.trace = null;
  };
}

function patchLive(target, live) {
  const patch = {};
  const dial = live.connect;
  target.connect = (params) => (patch.trace ? connect(patch.trace, live, dial, params) : dial.call(live, params));
  return patch;
}

const EMITTED = [
  "setupComplete", "toolCall", "toolCallCancellation", "content", "audio", "interrupted", "generationComplete",
  "turnComplete", "inputTranscription", "outputTranscription",
];

function messageOf(name, value = true, finished) {
  if (/^(setup|tool)/.test(name)) return { [name]: value };
  if (name === "content") return { serverContent: value };
  if (name === "audio") return { serverContent: { modelTurn: { parts: { inlineData: true } } } };
  return { serverContent: { [name]: value.trim ? { text: value, finished } : value } };
}

/** For a client that only emits. Its events are spelled differently from fork to fork. */
function listen(client) {
  const patch = {};
  const trace = { quietly: (tell) => patch.trace?.quietly(tell) };
  let recording = {};
  const current = () => {
    if (recording.trace !== patch.trace || recording.isClosed) recording = new Recording(patch.trace);
    return recording;
  };
  const on = (event, hear) => client.on(event, (...args) => trace.quietly(() => hear(...args)));
  for (const name of EMITTED) {
    for (const event of new Set([name, name.toLowerCase()])) {
      on(event, (...args) => {
        current().onmessage(messageOf(name, ...args));
      });
    }
  }
  on("error", () => current().onerror());
  on("close", () => recording.onclose?.());
  watch(trace, client, current, "disconnect");
  return patch;
}
