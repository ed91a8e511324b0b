// The wrappers around a provider's objects: what they forward, when a connection counts as open and why as closed, and
// that the app does not notice. The objects are stand-ins, but where the provider's own package is there, that.
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { test } from "node:test";

import { reduce } from "../../otel_voice/browser/allow.js";
import { ALLOW_LIST, instrument, traceGeminiLive } from "../../otel_voice/browser/gemini-live.js";
import * as openai from "../../otel_voice/browser/openai-realtime.js";

const { traceOpenAIRealtime } = openai;

/** What a page's trace is told. */
class Told {
  forwarded = [];
  life = [];
  faults = [];
  #befores = new Set();

  forward = (provider, dir, message) => this.forwarded.push([dir, JSON.parse(JSON.stringify(message))]);
  opened = () => this.life.push("opened");
  closed = (reason) => this.life.push(reason);
  error = (error) => this.life.push(`error: ${error.message}`);
  beforeEnd = (before) => {
    this.#befores.add(before);
    return () => this.#befores.delete(before);
  };
  end = () => this.#befores.forEach((before) => before());
  quietly(run) {
    try {
      return run();
    } catch (error) {
      this.faults.push(error);
    }
  }

  /** Of what was forwarded, the messages of one direction. */
  all(dir) {
    return this.forwarded.filter((each) => each[0] === dir).map((each) => each[1]);
  }
}

// Gemini Live

class Session {
  sent = [];
  sendClientContent(params) {
    this.sent.push(params);
    return "sent";
  }
  sendRealtimeInput(params) {
    this.sent.push(params);
  }
  sendToolResponse(params) {
    if (!params.functionResponses) throw new Error("functionResponses is required.");
    this.sent.push(params);
  }
  close() {
    this.isClosed = true;
  }
}

class Live {
  async connect(params) {
    if (this.refuses) throw this.refuses;
    this.callbacks = params.callbacks;
    this.callbacks.onopen();
    this.callbacks.onmessage({ setupComplete: { sessionId: "s" } });
    return (this.session = new Session());
  }
}

const PARAMS = { model: "gemini-live-2.5", config: { systemInstruction: "Be brief." } };

async function connected(params = PARAMS, live = new Live()) {
  const told = new Told();
  const session = await traceGeminiLive(told, live).connect(params);
  return { told, live, session, callbacks: live.callbacks };
}

test("a connection's setup and its messages are forwarded", async () => {
  const { told, callbacks } = await connected();
  callbacks.onmessage({ serverContent: { outputTranscription: { text: "Hi." }, waitingForInput: true } });
  assert.deepEqual(told.forwarded, [
    ["sent", { setup: { model: "models/gemini-live-2.5", systemInstruction: { parts: [{ text: "Be brief." }] } } }],
    ["received", { setupComplete: { sessionId: "s" } }],
    ["received", { serverContent: { outputTranscription: { text: "Hi." } } }],
  ]);
  assert.deepEqual([told.life, told.faults], [["opened"], []]);
});

test("the session stays the provider's own and sends what it sent", async () => {
  const { told, live, session } = await connected();
  assert.equal(session, live.session);
  assert.ok(session instanceof Session);
  assert.equal(session.sendClientContent({ turns: "Hello" }), "sent");
  const audio = { audio: { data: "AAAA", mimeType: "audio/pcm" } };
  session.sendRealtimeInput(audio);
  session.sendRealtimeInput({ text: "typed" });
  session.sendRealtimeInput({ activityStart: {} });
  session.sendToolResponse({ functionResponses: { id: "c", name: "f", response: { ok: true } } });
  assert.equal(session.sent[1], audio);
  assert.deepEqual(told.all("sent").slice(1), [
    { clientContent: { turns: [{ role: "user", parts: [{ text: "Hello" }] }], turnComplete: true } },
    { realtimeInput: { text: "typed" } },
    { realtimeInput: { activityStart: {} } },
    { toolResponse: { functionResponses: [{ id: "c", name: "f", response: { ok: true } }] } },
  ]);
});

test("what was refused is not forwarded, and the refusal is the app's", async () => {
  const { told, session } = await connected();
  assert.throws(() => session.sendToolResponse({}), /required/);
  assert.equal(told.all("sent").length, 1);
});

test("the app's callbacks are called after ours, with their own this, and may throw", async () => {
  const heard = [];
  const own = {
    onopen() {
      heard.push(["onopen", this === own]);
    },
    onmessage(message) {
      heard.push([message, this === own, told.all("received").length]);
      if (message.goAway) throw new Error("the app's");
    },
    onclose(event) {
      heard.push(event);
    },
  };
  const told = new Told();
  const live = new Live();
  await traceGeminiLive(told, live).connect({ ...PARAMS, callbacks: own });
  assert.throws(() => live.callbacks.onmessage({ goAway: { timeLeft: "5s" } }), /the app's/);
  live.callbacks.onclose("event");
  assert.deepEqual(heard, [
    ["onopen", true],
    [{ setupComplete: { sessionId: "s" } }, true, 1],
    [{ goAway: { timeLeft: "5s" } }, true, 2],
    "event",
  ]);
  assert.deepEqual(told.faults, []);
});

test("a connection without callbacks of the app's is recorded too", async () => {
  const { told, callbacks } = await connected();
  callbacks.onerror({});
  callbacks.onclose({});
  assert.deepEqual([told.life, told.faults], [["opened", "error"], []]);
});

const ENDS = {
  user_hangup: ({ session }) => session.close(),
  go_away: ({ callbacks }) => callbacks.onmessage({ goAway: { timeLeft: "5s" } }),
  error: ({ callbacks }) => callbacks.onerror({ message: "lost" }),
  provider_closed: () => {},
};

for (const [reason, cause] of Object.entries(ENDS)) {
  test(`a connection ends once, by ${reason}`, async () => {
    const connection = await connected();
    cause(connection);
    connection.callbacks.onclose({ code: 1006 });
    connection.callbacks.onclose({ code: 1006 });
    assert.deepEqual(connection.told.life, ["opened", reason]);
    assert.equal(connection.session.isClosed, reason === "user_hangup" ? true : undefined);
  });
}

test("a connection that is refused is an error, and the refusal is the app's", async () => {
  const live = new Live();
  live.refuses = new Error("no quota");
  const told = new Told();
  await assert.rejects(traceGeminiLive(told, live).connect(PARAMS), (error) => error === live.refuses);
  assert.deepEqual(told.life, ["opened", "error: no quota", "error"]);
});

test("each connection has its own memory of audio", async () => {
  const told = new Told();
  const audio = { serverContent: { modelTurn: { parts: [{ inlineData: { data: "AAAA" } }] } } };
  for (const n of [1, 2]) {
    const live = new Live();
    await traceGeminiLive(told, live).connect(PARAMS);
    for (const again of [1, 2, 3]) live.callbacks.onmessage(audio);
    assert.equal(told.all("received").filter((message) => message.serverContent).length, n);
  }
});

test("a sample app's client is instrumented once, for the trace that came last, until that is undone", async () => {
  const client = { client: { live: new Live() } };
  const [first, second] = [new Told(), new Told()];
  const connect = async () => {
    await client.client.live.connect({ ...PARAMS, callbacks: { onopen() {}, onmessage() {} } });
    return [first.all("sent").length, second.all("sent").length];
  };
  const undoFirst = instrument(client, first);
  instrument(client, first);
  assert.deepEqual(await connect(), [1, 0]);
  const undoSecond = instrument(client, second);
  assert.deepEqual(await connect(), [1, 1]);
  undoFirst();
  assert.deepEqual(await connect(), [1, 2]);
  undoSecond();
  assert.deepEqual(await connect(), [1, 2]);
});

test("what cannot be instrumented is told to the trace and does not throw", () => {
  const told = new Told();
  instrument({}, told)();
  assert.equal(told.faults.length, 1);
});

class Emitter extends EventEmitter {
  sent = [];
  send(parts, turnComplete = true) {
    this.sent.push([parts, turnComplete]);
  }
  sendToolResponse(response) {
    this.sent.push(response);
  }
  sendRealtimeInput(chunks) {
    this.sent.push(chunks);
  }
  disconnect() {
    this.emit("close", {});
  }
}

test("a client that only emits is recorded by its events", () => {
  const [told, client] = [new Told(), new Emitter()];
  instrument(client, told);
  instrument(client, told);
  client.emit("setupcomplete");
  client.send([{ text: "Hello" }, { text: "there" }]);
  client.sendRealtimeInput([{ mimeType: "audio/pcm", data: "AAAA" }]);
  client.emit("inputTranscription", "Hello", true);
  client.emit("audio", new ArrayBuffer(8));
  client.emit("audio", new ArrayBuffer(8));
  client.emit("content", { modelTurn: { parts: [{ text: "Hi" }] } });
  client.emit("toolcall", { functionCalls: [{ id: "c", name: "f", args: {} }] });
  client.sendToolResponse({ functionResponses: [{ id: "c", response: 1 }] });
  client.emit("toolcallcancellation", { ids: ["c"] });
  client.emit("interrupted");
  client.emit("turncomplete");
  assert.deepEqual(told.forwarded, [
    ["sent", { clientContent: { turns: [{ role: "user", parts: [{ text: "Hello" }, { text: "there" }] }], turnComplete: true } }],
    ["received", { serverContent: { inputTranscription: { text: "Hello", finished: true } } }],
    ["received", { serverContent: { modelTurn: { parts: [{ inlineData: {} }] } } }],
    ["received", { serverContent: { modelTurn: { parts: [{ text: "Hi" }] } } }],
    ["received", { toolCall: { functionCalls: [{ id: "c", name: "f", args: {} }] } }],
    ["sent", { toolResponse: { functionResponses: [{ id: "c", response: 1 }] } }],
    ["received", { toolCallCancellation: { ids: ["c"] } }],
    ["received", { serverContent: { interrupted: true } }],
    ["received", { serverContent: { turnComplete: true } }],
  ]);
  assert.deepEqual([client.sent.length, told.life, told.faults], [3, ["opened"], []]);
});

test("a client that only emits connects again after it was closed", () => {
  const [told, client] = [new Told(), new Emitter()];
  const undo = instrument(client, told);
  client.emit("setupcomplete");
  client.disconnect();
  client.emit("setupcomplete");
  client.emit("error", new Error("lost"));
  client.emit("close", {});
  client.emit("close", {});
  undo();
  client.emit("setupcomplete");
  client.send([{ text: "Hello" }]);
  assert.deepEqual(told.life, ["opened", "user_hangup", "opened", "error"]);
  assert.deepEqual([told.forwarded, told.faults], [[], []]);
});

const genai = await import("@google/genai").catch(() => null);
const ws = await import("ws").catch(() => null);
const needs = (found) => found.includes(null) && process.env.CI !== "true" && "`npm ci` in tests/browser gives the packages";

/** A server that notes what it is sent, and answers a session's setup. */
async function server(answer) {
  const listening = new ws.WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(listening, "listening");
  const wire = [];
  listening.on("connection", (socket) => {
    socket.on("message", (frame) => {
      wire.push(JSON.parse(frame));
      answer(socket, wire.at(-1));
    });
  });
  return { wire, listening, address: `127.0.0.1:${listening.address().port}` };
}

/** Resolves when it is so; the test's own time limit is the deadline. */
const until = async (isSo) => {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
};

const reduced = (listed, wire) => wire.map((message) => reduce(listed, "sent", message)).filter(Boolean);

const INSTRUCTIONS = ["Be brief.", { text: "Be brief." }, ["Be", "brief."], { parts: [{ text: "Be brief." }] }, undefined];

for (const [n, systemInstruction] of INSTRUCTIONS.entries()) {
  test(`the real @google/genai sends what was forwarded (${n})`, { skip: needs([genai, ws]), timeout: 20_000 }, async () => {
    const { wire, listening, address } = await server((socket, { setup }) => setup && socket.send('{"setupComplete":{}}'));
    const ai = new genai.GoogleGenAI({ apiKey: "key", httpOptions: { baseUrl: `http://${address}` } });
    const told = new Told();
    const session = await traceGeminiLive(told, ai.live).connect({ model: "live", config: { systemInstruction }, callbacks: { onmessage() {} } });
    const response = { id: "c", name: "f", response: { output: 1 }, scheduling: "SILENT" };
    const contents = [{ role: "user", parts: [{ text: "a" }] }, { role: "model", parts: [{ text: "b" }] }];
    for (const turns of ["Hello", { text: "Hello" }, ["a", { text: "b" }], contents, contents[1], null, undefined]) {
      session.sendClientContent({ turns });
      session.sendClientContent({ turns, turnComplete: false });
    }
    session.sendClientContent();
    session.sendRealtimeInput({ audio: { data: "AAAA", mimeType: "audio/pcm" } });
    session.sendRealtimeInput({ media: { data: "AAAA", mimeType: "audio/pcm" } });
    session.sendRealtimeInput({ audioStreamEnd: true });
    session.sendRealtimeInput({ text: "typed" });
    session.sendRealtimeInput({ activityStart: {} });
    session.sendRealtimeInput({ activityEnd: {} });
    session.sendToolResponse({ functionResponses: response });
    session.sendToolResponse({ functionResponses: [response, { ...response, id: "d" }] });
    await until(() => wire.length === 24);
    assert.deepEqual(told.all("sent"), reduced(ALLOW_LIST, wire));
    assert.ok(told.all("sent").length > 18);
    for (const socket of listening.clients) socket.close();
    await until(() => told.life.length === 2);
    assert.deepEqual([told.life, told.faults], [["opened", "provider_closed"], []]);
    listening.close();
  });
}

// OpenAI Realtime

class Channel extends EventTarget {
  readyState = "connecting";
  sent = [];
  send(frame) {
    if (this.readyState !== "open") throw new Error("InvalidStateError");
    this.sent.push(frame);
  }
  close() {
    this.readyState = "closing";
  }
  tell(name, fields) {
    if (name === "open") this.readyState = "open";
    this.dispatchEvent(Object.assign(new Event(name), fields));
  }
  say(message) {
    this.tell("message", { data: typeof message === "string" ? message : JSON.stringify(message) });
  }
}

function recorded(readyState = "open") {
  const [told, channel] = [new Told(), new Channel()];
  channel.readyState = readyState;
  assert.equal(traceOpenAIRealtime(told, channel), channel);
  return { told, channel };
}

test("a channel's messages are forwarded both ways", () => {
  const { told, channel } = recorded("connecting");
  traceOpenAIRealtime(told, channel);
  assert.throws(() => channel.send('{"type":"response.create"}'), /InvalidState/);
  channel.tell("open");
  channel.say({ type: "session.created", session: { id: "s", model: "m", tools: [] } });
  channel.send('{"type":"response.create"}');
  channel.tell("message", { data: new ArrayBuffer(8) });
  channel.say("no JSON");
  channel.send("no JSON");
  channel.send(new Uint8Array(8));
  assert.deepEqual(told.forwarded, [
    ["received", { type: "session.created", session: { id: "s", model: "m" } }],
    ["sent", { type: "response.create" }],
  ]);
  assert.deepEqual([channel.sent.length, told.life, told.faults], [3, ["opened"], []]);
});

test("audio is told by its head, without being parsed", () => {
  const { told, channel } = recorded();
  const parse = JSON.parse;
  const parsed = [];
  JSON.parse = (text, ...rest) => {
    parsed.push(text);
    return parse(text, ...rest);
  };
  try {
    const ids = '"event_id":"e","response_id":"r","item_id":"i","output_index":0';
    const delta = `"delta":"${"A".repeat(10_000)}"}`;
    channel.say(`{"type":"response.output_audio.delta",${ids},${delta}`);
    channel.say(`{"type": "response.audio.delta", ${ids.replaceAll(":", ": ")}, ${delta}`);
    channel.send(`{"type":"input_audio_buffer.append","audio":"${"A".repeat(10_000)}"}`);
    channel.send(`{"event_id":"e","type":"input_audio_buffer.append","audio":"AAAA"}`);
    assert.deepEqual(parsed.filter((text) => text.includes("AAAA")), []);
    channel.say(`{${delta.slice(0, -1)},"item_id":"j","response_id":"r","type":"response.output_audio.delta"}`);
    channel.say(`{"type":"response.output_audio.delta","response_id":"\\u0041","item_id":"k",${delta}`);
  } finally {
    JSON.parse = parse;
  }
  assert.deepEqual(told.all("received"), [
    { type: "response.output_audio.delta", response_id: "r", item_id: "i" },
    { type: "response.output_audio.delta", response_id: "r", item_id: "j" },
    { type: "response.output_audio.delta", response_id: "A", item_id: "k" },
  ]);
});

test("words about audio are no audio", () => {
  const { told, channel } = recorded();
  const text = 'What is {"type":"input_audio_buffer.append"}, and {"type":"response.output_audio.delta"}?';
  channel.send(JSON.stringify({ type: "conversation.item.create", item: { content: text } }));
  channel.say({ type: "error", error: { message: text } });
  assert.deepEqual(told.forwarded, [
    ["sent", { type: "conversation.item.create", item: { content: [{ text }] } }],
    ["received", { type: "error", error: { message: text } }],
  ]);
});

const CHUNK = { type: "response.output_text.delta", response_id: "r", item_id: "i", delta: "a" };

for (const end of ["the page goes", "the connection closes"]) {
  test(`text that is held back is forwarded when ${end}`, () => {
    const { told, channel } = recorded();
    for (let n = 0; n < 4; n += 1) channel.say(CHUNK);
    if (end === "the page goes") told.end();
    else channel.tell("close", {});
    assert.deepEqual(told.all("received"), [CHUNK, { ...CHUNK, delta: "aaa" }]);
  });
}

const REASONS = [
  ["user_hangup", (channel) => channel.close()],
  ["provider_closed", (channel) => channel.tell("close", { code: 1000 })],
  ["provider_closed", (channel) => channel.tell("close", { code: 1005 })],
  ["error", (channel) => channel.tell("close", { code: 1011 })],
  ["error", (channel) => channel.tell("error", {})],
  ["error", (channel) => channel.tell("error", { error: { sctpCauseCode: 1 } })],
  ["provider_closed", (channel) => channel.tell("error", { error: { sctpCauseCode: 12 } })],
  ["provider_closed", () => {}],
];

for (const [n, [reason, cause]] of REASONS.entries()) {
  test(`a channel ends once, by ${reason} (${n})`, () => {
    const { told, channel } = recorded();
    cause(channel);
    channel.tell("close", {});
    assert.deepEqual(told.life, ["opened", reason]);
  });
}

test("a channel that never opened has an opening in the trace's count", () => {
  const { told, channel } = recorded("connecting");
  channel.tell("error", {});
  channel.tell("close", { code: 1006 });
  assert.deepEqual(told.life, ["opened", "error"]);
});

class Transport extends EventEmitter {
  connectionState = {};
  connect(channel, peerConnection) {
    this.connectionState = { dataChannel: channel, peerConnection };
    this.emit("connection_change", "connecting");
    channel.tell("open");
    this.emit("connection_change", "connected");
  }
  close() {
    const { dataChannel } = this.connectionState;
    this.connectionState = {};
    dataChannel.close();
    this.emit("connection_change", "disconnected");
  }
}

test("each connection of a session is recorded, to the trace that was given last", () => {
  const session = { transport: new Transport() };
  const [first, second] = [new Told(), new Told()];
  assert.equal(traceOpenAIRealtime(first, session), session);
  for (const [told, reason, state] of [[first, "user_hangup", "connected"], [second, "error", "failed"]]) {
    traceOpenAIRealtime(told, session);
    const channel = new Channel();
    session.transport.connect(channel, { connectionState: state });
    channel.send('{"type":"response.cancel"}');
    session.transport.close();
    assert.deepEqual([told.forwarded, told.life], [[["sent", { type: "response.cancel" }]], ["opened", reason]]);
  }
  assert.deepEqual([first.faults, second.faults], [[], []]);
});

const agents = await import("@openai/agents-realtime").catch(() => null);

test("the real @openai/agents-realtime sends what was forwarded", { skip: needs([agents, ws]), timeout: 20_000 }, async () => {
  const { wire, listening, address } = await server((socket, { type }) => {
    if (type === "response.create") {
      socket.send('{"type":"response.created","event_id":"e","response":{"id":"r","object":"realtime.response","status":"in_progress"}}');
    }
  });
  listening.on("connection", (socket) => socket.send('{"type":"session.created","event_id":"e","session":{"id":"s","model":"m"}}'));
  const transport = new agents.OpenAIRealtimeWebSocket({ url: `ws://${address}`, useInsecureApiKey: true });
  const session = new agents.RealtimeSession(new agents.RealtimeAgent({ name: "a", instructions: "Be brief." }), { transport });
  const told = new Told();
  traceOpenAIRealtime(told, session);
  await session.connect({ apiKey: "key" });
  session.sendMessage("Hello");
  session.sendAudio(new ArrayBuffer(8));
  await until(() => told.all("received").some((message) => message.type === "response.created"));
  transport.sendEvent({ type: "response.cancel", response_id: "r" });
  await until(() => wire.some((message) => message.type === "response.cancel"));
  assert.deepEqual(told.all("sent"), reduced(openai.ALLOW_LIST, wire));
  const types = told.all("sent").map((message) => message.type);
  assert.deepEqual(types, ["conversation.item.create", "response.create", "response.cancel"]);
  session.close();
  assert.deepEqual([told.life, told.faults], [["opened", "user_hangup"], []]);
  listening.close();
});
