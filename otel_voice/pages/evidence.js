// The events behind a span: those of its time, and those that name its call or turn wherever they lie. Pure.

import { CALL_ID } from "./names.js";

/** Newline-delimited JSON -> events; a line that is none is left out. */
export function eventsOf(text) {
  const events = [];
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    try {
      events.push(JSON.parse(line));
    } catch {
      // A recording may have been cut off in its last line.
    }
  }
  return events;
}

/** `turnId` is the name that the turn's events have, null where nobody knows it. */
export function eventsBehind(row, events, turnId = null) {
  if (row.kind === "session") return events;
  const callId = row.kind === "tool" ? row.attributes[CALL_ID] : undefined;
  const name = callId === undefined ? null : JSON.stringify(callId);
  // Times have µs in spans and may have less in events.
  const within = ({ ts }) => ts >= row.start - 1 && ts <= row.end + 1;
  if (name !== null) {
    const named = events.filter(
      (event) => event.call_id === callId || JSON.stringify(event.message ?? null).includes(name),
    );
    if (named.length) return named;
  }
  return events.filter((event) => (turnId !== null && event.turn_id === turnId) || within(event));
}

/** The `turn_id` among the events' whose span this is: ids are hashes of names. Null without a hash or a match. */
export async function turnIdOf(row, events) {
  if (row.kind !== "turn" || !globalThis.crypto?.subtle) return null;
  for (const turnId of new Set(events.map(({ turn_id }) => turn_id).filter(Boolean))) {
    if ((await spanId(row.span.trace_id, "turn", turnId)) === row.id) return turnId;
  }
  return null;
}

async function spanId(trace, kind, key) {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${trace}/${kind}/${key}`));
  return [...new Uint8Array(hash, 0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
