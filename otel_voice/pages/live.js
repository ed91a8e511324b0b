// A session that is not over, followed while somebody looks at the page.

/**
 * `onChange({summary, spans, open})` for each message, `onAway(true)` when the receiver does not answer and
 * `onAway(false)` when it does again; `onOver()` when nothing more comes, `onRefused()` when it was refused. Answers a
 * function that stops it.
 */
export function follow(path, { onChange, onAway, onOver, onRefused }) {
  let stream = null;
  let seen = "";
  const close = () => {
    stream?.close();
    stream = null;
  };
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(seen ? `${path}?seen=${encodeURIComponent(seen)}` : path);
    stream.addEventListener("open", () => onAway(false));
    stream.addEventListener("session", ({ data, lastEventId }) => {
      seen = lastEventId;
      onChange(JSON.parse(data));
    });
    stream.addEventListener("end", () => {
      stop();
      onOver();
    });
    stream.addEventListener("error", () => {
      onAway(true);
      // While it only connects again, the browser does that by itself.
      if (stream?.readyState !== EventSource.CLOSED) return;
      stop();
      onRefused();
    });
  };
  const turn = () => (document.hidden ? close() : open());
  const stop = () => {
    document.removeEventListener("visibilitychange", turn);
    close();
  };
  document.addEventListener("visibilitychange", turn);
  open();
  return stop;
}

/** What is known and what has come: final spans stay, open ones are all told again. */
export function grown(looked, { summary, spans = [], open = [] }) {
  const known = new Map(looked.spans.filter((span) => !span.open).map((span) => [span.span_id, span]));
  // A final span never changes, and what was made of it is kept by it.
  for (const span of spans) if (!known.has(span.span_id)) known.set(span.span_id, span);
  const unfinished = open.filter((span) => !known.has(span.span_id));
  return { ...looked, summary: summary ?? looked.summary, spans: [...known.values(), ...unfinished] };
}
