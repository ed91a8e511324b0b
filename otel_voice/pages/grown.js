// A session that goes on: what its stream tells, put to what is known.

/** Final spans stay, open ones are all told again. */
export function grown(looked, { summary, spans = [], open = [] }) {
  const known = new Map(looked.spans.filter((span) => !span.open).map((span) => [span.span_id, span]));
  // A final span never changes, and what was made of it is kept by it.
  for (const span of spans) if (!known.has(span.span_id)) known.set(span.span_id, span);
  const unfinished = open.filter((span) => !known.has(span.span_id));
  return { ...looked, summary: summary ?? looked.summary, spans: [...known.values(), ...unfinished] };
}
