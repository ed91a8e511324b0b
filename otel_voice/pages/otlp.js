// OTLP JSON -> what /v1/sessions/ID/spans answers, so that a file is looked at as a session is. Pure.

import * as n from "./names.js";

/** Throws an Error with one sentence where there is no voice session in it. */
export function lookedAt(text) {
  const spans = documentsIn(text).flatMap(spansIn);
  const root = spans.find(({ name, parent_span_id }) => name === n.SESSION && !parent_span_id);
  if (!root) throw new Error("the file has no voice session in it");
  const own = spans.filter(({ trace_id }) => trace_id === root.trace_id);
  const session_id = String(root.attributes[n.SESSION_ID] ?? root.trace_id);
  return { session_id, trace_id: root.trace_id, summary: summaryOf(root, session_id), links: {}, spans: own };
}

export const isOtlp = (text) => /"resourceSpans"/.test(text.slice(0, 4096));

/** One document, or one a line, as the collector's file exporter writes them. */
function documentsIn(text) {
  try {
    return [JSON.parse(text)];
  } catch (error) {
    const lines = text.split("\n").filter((line) => line.trim());
    if (lines.length < 2) throw new Error("the file is no JSON", { cause: error });
    return lines.map((line) => JSON.parse(line));
  }
}

const spansIn = ({ resourceSpans = [] }) =>
  resourceSpans.flatMap(({ scopeSpans = [] }) => scopeSpans.flatMap(({ spans = [] }) => spans.map(spanOf)));

function spanOf(span) {
  const { code = 0, message = "" } = span.status ?? {};
  return {
    name: span.name ?? "",
    trace_id: span.traceId ?? "",
    span_id: span.spanId ?? "",
    parent_span_id: span.parentSpanId ?? "",
    kind: span.kind === 3 || span.kind === "SPAN_KIND_CLIENT" ? "CLIENT" : "INTERNAL",
    start_time_unix_nano: Number(span.startTimeUnixNano ?? 0),
    end_time_unix_nano: Number(span.endTimeUnixNano ?? 0),
    attributes: Object.fromEntries((span.attributes ?? []).map(({ key, value }) => [key, valueOf(value ?? {})])),
    status: code === 2 || code === "STATUS_CODE_ERROR" ? "ERROR" : "UNSET",
    status_message: message,
    links: (span.links ?? []).map(({ traceId, spanId }) => `00-${traceId}-${spanId}-01`),
    open: false,
  };
}

/** 64-bit integers are strings in OTLP's JSON. */
function valueOf(value) {
  if ("stringValue" in value) return value.stringValue;
  if ("intValue" in value) return Number(value.intValue);
  if ("doubleValue" in value) return Number(value.doubleValue);
  if ("boolValue" in value) return value.boolValue;
  if ("arrayValue" in value) return (value.arrayValue.values ?? []).map(valueOf);
  return null;
}

function summaryOf(root, session_id) {
  const { attributes } = root;
  const read = (keys) => Object.fromEntries(Object.entries(keys).map(([name, key]) => [name, attributes[key]]));
  const counts = Object.entries(read(n.COUNTS)).map(([name, count]) => [name, count ?? 0]);
  const tokens = Object.entries(read(n.TOKENS)).filter(([, count]) => count !== undefined);
  const ms = (key) => (attributes[key] === undefined ? null : attributes[key] * 1000);
  const [started_at, ended_at] = [root.start_time_unix_nano / 1e6, root.end_time_unix_nano / 1e6];
  return {
    session_id,
    trace_id: root.trace_id,
    status: "ended",
    started_at,
    ended_at,
    duration_ms: ended_at - started_at,
    end_reason: attributes[n.END_REASON] ?? null,
    user_id: attributes[n.USER] ?? null,
    agent_name: attributes[n.AGENT] ?? null,
    provider: attributes[n.PROVIDER] ?? null,
    model: attributes[n.REQUEST_MODEL] ?? null,
    ...Object.fromEntries(counts),
    user_bot_latency_ms: { p50: ms(`${n.LATENCY}.p50`), p95: ms(`${n.LATENCY}.p95`), max: ms(`${n.LATENCY}.max`) },
    tokens: Object.fromEntries(tokens),
  };
}
