// A voice agent on a script. It speaks the protocol of the Gemini Live API, so a page cannot tell the difference
// before it listens to the answers.
import { setTimeout as pause } from "node:timers/promises";

import { Ears } from "./ears.mjs";
import { Script } from "./script.mjs";
import { RATE, spoken } from "./speech.mjs";

const FASTER = 1.5; // than it is listened to, as the real ones are
const THINKS_MS = 250;
const TOKENS_A_SECOND = 25; // of audio, as Gemini counts

export class Agent {
  #socket;
  #script = new Script();
  #ears = new Ears();
  #turn = null;
  #sent = 0;
  #calls = new Map();

  constructor(socket) {
    this.#socket = socket;
    socket.on("message", (data) => this.#hears(JSON.parse(data)));
    socket.on("close", () => this.#turn?.abort());
    socket.on("error", () => this.#turn?.abort());
  }

  #hears({ setup, realtimeInput, clientContent, toolResponse }) {
    if (setup) this.#send({ setupComplete: { sessionId: crypto.randomUUID() } });
    if (realtimeInput?.audio) this.#listens(samplesOf(realtimeInput.audio.data));
    const text = realtimeInput?.text ?? clientContent?.turns?.at(-1)?.parts?.[0]?.text;
    if (text) this.#answers(text);
    for (const { id, response } of toolResponse?.functionResponses ?? []) this.#calls.get(id)?.(response);
  }

  #listens(samples) {
    for (const heard of this.#ears.hear(samples)) {
      const activity = heard.type === "began" ? "ACTIVITY_START" : "ACTIVITY_END";
      this.#send({ voiceActivity: { voiceActivityType: activity, audioOffset: `${heard.at}s` } });
      if (heard.type === "began") this.#isInterrupted();
      else this.#answers(null, `(${heard.seconds.toFixed(1)} s of speech)`);
    }
  }

  #isInterrupted() {
    if (this.#turn === null) return;
    this.#turn.abort();
    this.#turn = null;
    this.#content({ interrupted: true });
    this.#completes();
  }

  async #answers(text, transcript) {
    this.#isInterrupted();
    const turn = (this.#turn = new AbortController());
    if (transcript) this.#content({ inputTranscription: { text: transcript } });
    try {
      await pause(THINKS_MS, null, turn);
      const { tool, args, say } = this.#script.answer(text);
      await this.#says(tool ? say(await this.#asksFor(tool, args, turn.signal)) : say, turn);
      this.#turn = null;
      this.#completes();
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  #asksFor(name, args, signal) {
    const id = `call-${crypto.randomUUID().slice(0, 8)}`;
    return new Promise((resolve, reject) => {
      const cancel = () => {
        this.#calls.delete(id);
        this.#send({ toolCallCancellation: { ids: [id] } });
        reject(signal.reason);
      };
      this.#calls.set(id, (response) => {
        this.#calls.delete(id);
        signal.removeEventListener("abort", cancel);
        resolve(response);
      });
      signal.addEventListener("abort", cancel);
      this.#send({ toolCall: { functionCalls: [{ id, name, args }] } });
    });
  }

  /** Sends faster than it sounds, and is done when it has sounded. */
  async #says(words, turn) {
    const began = performance.now();
    const until = (seconds) => pause(Math.max(0, began + seconds * 1000 - performance.now()), null, turn);
    let end = 0;
    for (const { at, samples, text } of spoken(words)) {
      await until(at / FASTER);
      if (text) this.#content({ outputTranscription: { text } });
      const inlineData = { mimeType: `audio/pcm;rate=${RATE}`, data: base64Of(samples) };
      this.#content({ modelTurn: { parts: [{ inlineData }] } });
      end = at + samples.length / RATE;
      this.#sent += samples.length;
    }
    this.#content({ generationComplete: true });
    await until(end);
  }

  #completes() {
    const count = Math.round((this.#sent / RATE) * TOKENS_A_SECOND);
    this.#sent = 0;
    const responseTokensDetails = [{ modality: "AUDIO", tokenCount: count }];
    const usageMetadata = { promptTokenCount: 100, responseTokenCount: count, totalTokenCount: 100 + count, responseTokensDetails };
    this.#send({ serverContent: { turnComplete: true }, usageMetadata });
  }

  #content(serverContent) {
    this.#send({ serverContent });
  }

  #send(message) {
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.send(Buffer.from(JSON.stringify(message)));
  }
}

function samplesOf(base64) {
  const bytes = Buffer.from(base64, "base64");
  return new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length - (bytes.length % 2)));
}

function base64Of(samples) {
  return Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength).toString("base64");
}
