// Answers, a line for a line: {provider, frames} with what is forwarded of each frame and at the end, {provider, dir,
// message} with the message reduced, {lists: true} with the allow-lists.
import { createInterface } from "node:readline";

import { reduce } from "../../otel_voice/browser/allow.js";
import * as gemini from "../../otel_voice/browser/gemini-live.js";
import * as openai from "../../otel_voice/browser/openai-realtime.js";

const MODULES = { "gemini-live": gemini, "openai-realtime": openai };

function forwarded(provider, frames) {
  const forward = new MODULES[provider].Forward();
  // Written out at once, as a trace does: what is held back goes on growing.
  const kept = frames.map(({ dir, message }) => JSON.stringify(forward.feed(dir, message)));
  return [...kept, JSON.stringify(forward.flush())].map((each) => JSON.parse(each));
}

function answer({ provider, frames, dir, message, lists }) {
  if (lists) return Object.fromEntries(Object.entries(MODULES).map(([name, { ALLOW_LIST }]) => [name, ALLOW_LIST]));
  return frames ? forwarded(provider, frames) : (reduce(MODULES[provider].ALLOW_LIST, dir, message) ?? null);
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(answer(JSON.parse(line)))}\n`);
}
