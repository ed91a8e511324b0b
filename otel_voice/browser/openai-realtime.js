import { Connection, reduce, wrap } from "./allow.js";

const [string, count, id, json] = ["string", "count", "id", "json"];
const AUDIO = "response.output_audio.delta";
const CHUNK = 160; // characters of a text held back, and so what a crashing tab can lose of one
const RECENT = 512; // responses and texts that are remembered

const ERROR = { "": "message", type: string, code: string, message: string };
const SESSION = { session: { id, model: id, instructions: string } };
const RESPONSE = { response_id: id };
const ITEM = { item_id: id };
const OUTPUT = { ...RESPONSE, ...ITEM };
const TEXT = { content_index: count, delta: string };
const SAID = [{ text: string, transcript: string }];
const MESSAGE = { id, type: string, role: string, content: SAID, call_id: id, output: json };
const CALL = { id, type: string, status: string, name: id, call_id: id, arguments: json, output: json, error: json };
const TOKENS = { text_tokens: count, audio_tokens: count };
const USAGE = {
  input_tokens: count,
  output_tokens: count,
  input_token_details: { ...TOKENS, image_tokens: count, cached_tokens: count, cached_tokens_details: TOKENS },
  output_token_details: { ...TOKENS, reasoning_tokens: count },
};

/** What is forwarded of the protocol; otel_voice/adapters/allow_list.json has the same. */
export const ALLOW_LIST = {
  keyed_by: "type",
  aliases: {
    "conversation.item.created": "conversation.item.added",
    "response.audio.delta": AUDIO,
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
  },
  sent: {
    "conversation.item.create": { item: { ...MESSAGE, content: [{ "": "text", ...SAID[0] }] } },
    "response.create": { response: { conversation: string } },
    "response.cancel": RESPONSE,
    "output_audio_buffer.clear": {},
  },
  received: {
    "session.created": SESSION,
    "session.updated": SESSION,
    "conversation.item.added": { item: MESSAGE },
    "conversation.item.truncated": { ...ITEM, audio_end_ms: "millis" },
    "conversation.item.input_audio_transcription.delta": { ...ITEM, ...TEXT },
    "conversation.item.input_audio_transcription.completed": { ...ITEM, content_index: count, transcript: string },
    "conversation.item.input_audio_transcription.failed": { ...ITEM, error: ERROR },
    "input_audio_buffer.speech_started": { ...ITEM, audio_start_ms: "millis" },
    "input_audio_buffer.speech_stopped": { ...ITEM, audio_end_ms: "millis" },
    "input_audio_buffer.committed": ITEM,
    "input_audio_buffer.timeout_triggered": ITEM,
    "output_audio_buffer.started": RESPONSE,
    "output_audio_buffer.stopped": RESPONSE,
    "output_audio_buffer.cleared": RESPONSE,
    "response.created": { response: { id, conversation_id: id } },
    "response.output_item.added": { ...RESPONSE, item: { id, type: string, name: id, call_id: id } },
    "response.output_item.done": { ...RESPONSE, item: CALL },
    "response.function_call_arguments.done": { ...OUTPUT, call_id: id, name: id, arguments: json },
    [AUDIO]: OUTPUT,
    "response.output_audio_transcript.delta": { ...OUTPUT, ...TEXT },
    "response.output_audio_transcript.done": { ...OUTPUT, content_index: count, transcript: string },
    "response.output_text.delta": { ...OUTPUT, ...TEXT },
    "response.output_text.done": { ...OUTPUT, content_index: count, text: string },
    "response.done": {
      response: {
        id,
        status: string,
        status_details: { "": "reason", reason: string, error: ERROR },
        output: [{ ...CALL, content: SAID }],
        usage: USAGE,
      },
      usage: USAGE,
    },
    error: { error: ERROR },
  },
};

const textOf = ({ type, response_id, item_id, content_index = 0 }) =>
  `${type.slice(0, type.lastIndexOf("."))} ${response_id} ${item_id} ${content_index}`;

/** What is forwarded of a connection: a response's first audio, and chunks of a text joined until it is told whole. */
export class Forward {
  #heard = new Set();
  #pending = new Map();

  feed(dir, message) {
    const reduced = reduce(ALLOW_LIST, dir, message);
    const chosen = reduced && this.#choose(reduced);
    return chosen ? [...this.#heldOf(chosen), chosen] : [];
  }

  flush() {
    const rest = [...this.#pending.values()].filter((held) => held.delta);
    this.#pending.clear();
    return rest;
  }

  #choose(message) {
    const { type: name, item = {}, response_id, item_id } = message;
    if (name === AUDIO) return this.#isFirst(`${response_id} ${item_id}`) && message;
    if (name.endsWith(".delta")) return this.#joined(message);
    if (/\.(done|completed)$/.test(name)) this.#pending.delete(textOf(message));
    if (name.startsWith("response.output_item.")) return /^(function|mcp)_call$/.test(item.type) && message;
    return (name !== "conversation.item.added" || item.type !== "message" || item.content) && message;
  }

  /** The chunks of a response that ends here without telling its text in full. */
  #heldOf({ type, response }) {
    if (type !== "response.done" || !response) return [];
    const told = response.output?.filter((item) => item.content).map((item) => item.id) ?? [];
    const mine = [...this.#pending.values()].filter((held) => held.response_id === response.id);
    for (const held of mine) this.#pending.delete(textOf(held));
    return mine.filter((held) => held.delta && !told.includes(held.item_id));
  }

  #isFirst(audio) {
    const isFirst = !this.#heard.has(audio);
    this.#heard.add(audio);
    if (this.#heard.size > RECENT) this.#heard.delete([...this.#heard][0]);
    return isFirst;
  }

  #joined(message) {
    const held = this.#pending.get(textOf(message));
    if (held) held.delta += message.delta ?? "";
    if (held && [...held.delta].length < CHUNK) return undefined;
    // Not every text ends.
    if (held || this.#pending.size < RECENT) this.#pending.set(textOf(message), { ...(held ?? message), delta: "" });
    return held ?? message;
  }
}

/** A frame's message. Audio, of which there is much, is not parsed: it is known by the head of its frame. */
function read(frame) {
  if (typeof frame !== "string") return undefined;
  const head = frame.slice(0, 400);
  if (/"type": ?"input_audio_buffer.append"/.test(head)) return undefined;
  if (/"type": ?"response.(output_)?audio.delta"/.test(head)) {
    const [response_id, item_id] = ["response", "item"].map((of) => head.match(`"${of}_id": ?"([^"\\\\]+)"`)?.[1]);
    if (response_id && item_id) return { type: AUDIO, response_id, item_id };
  }
  try {
    return JSON.parse(frame);
  } catch {
    return undefined; // not the protocol's
  }
}

const connections = new WeakMap();

function record(trace, channel) {
  if (!channel) return;
  if (!channel.send) throw new TypeError("no channel");
  const known = connections.get(channel);
  if (known) return known.follow(trace);
  const connection = new Connection(trace, "openai-realtime", new Forward());
  let hasFailed = false;
  connections.set(channel, connection);
  wrap(trace, channel, "send", (frame) => connection.say("sent", read(frame)));
  wrap(trace, channel, "close", null, () => connection.closed(hasFailed ? "error" : "user_hangup"));
  const on = (name, hear) => channel.addEventListener(name, (event) => trace.quietly(() => hear(event)));
  on("message", ({ data }) => connection.say("received", read(data)));
  on("error", ({ error }) => {
    hasFailed = error?.sctpCauseCode !== 12; // the peer connection was closed at the other end
  });
  on("close", ({ code = 1000 }) => {
    connection.closed(hasFailed || ![1000, 1005].includes(code) ? "error" : "provider_closed");
  });
}

const traces = new WeakMap();

/** A session's transport makes a channel for each connection; it alone shows all that is sent. */
function follow(trace, session) {
  const { transport } = session;
  const isNew = !traces.has(session);
  traces.set(session, trace);
  const channel = () => transport.connectionState.websocket ?? transport.connectionState.dataChannel;
  const recordIt = () => record(traces.get(session), channel());
  recordIt();
  if (!isNew) return;
  transport.on("connection_change", () => trace.quietly(recordIt));
  wrap(trace, transport, "close", null, () => {
    const state = transport.connectionState.peerConnection?.connectionState;
    if (/failed|disconnected/.test(state)) connections.get(channel())?.closed("error");
  });
}

/** Records an RTCDataChannel, a WebSocket or the connections of a session of @openai/agents-realtime. */
export function traceOpenAIRealtime(trace, target) {
  trace.quietly(() => (target.transport ? follow : record)(trace, target));
  return target;
}
