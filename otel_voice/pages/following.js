// The stream of changed sessions, while somebody looks at the page.

const AGAIN_MS = 5000;
// EventSource reconnects by itself; only what takes longer is worth a word.
const PATIENCE_MS = 3000;

/**
 * `onSessions(summaries)` for each message; `onOpen(isAgain)` whenever the stream begins: what changed before it may be unknown;
 * `onAway()` when the receiver does not answer for a while.
 */
export function follow(path, { onSessions, onOpen, onAway }) {
  let stream = null;
  let timer = 0;
  let patience = 0;
  let wasOpen = false;

  const close = () => {
    stream?.close();
    stream = null;
    clearTimeout(timer);
    clearTimeout(patience);
    patience = 0;
  };
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(path);
    stream.addEventListener("open", opened);
    stream.addEventListener("sessions", (event) => onSessions(JSON.parse(event.data).sessions));
    stream.addEventListener("error", failed);
  };
  const opened = () => {
    clearTimeout(patience);
    patience = 0;
    onOpen(wasOpen);
    wasOpen = true;
  };
  const failed = () => {
    patience ||= setTimeout(onAway, PATIENCE_MS);
    if (stream.readyState !== EventSource.CLOSED) return;
    stream = null;
    clearTimeout(timer);
    timer = setTimeout(open, AGAIN_MS);
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  // With an open stream the page could not wait in the back-forward cache.
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}
