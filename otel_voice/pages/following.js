// A stream of the receiver's, while somebody looks at the page.

// EventSource reconnects by itself; only what takes longer is worth a word.
const PATIENCE_MS = 3000;

/**
 * `path()` is asked for each time the stream is opened; `on[name](data, id)` hears its messages by their events' names.
 * `onOpen(isAgain)` whenever it begins: what changed before it may be unknown; `onAway(true)` when the receiver does not
 * answer for a while, `onAway(false)` when it does; `onRefused()` when it was refused, and is over. Answers a function
 * that stops it.
 */
export function follow(path, { on, onOpen = () => {}, onAway, onRefused }) {
  let stream = null;
  let patience = 0;
  let wasOpen = false;

  const close = () => {
    stream?.close();
    stream = null;
    clearTimeout(patience);
    patience = 0;
  };
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(path());
    stream.addEventListener("open", opened);
    stream.addEventListener("error", failed);
    for (const [name, does] of Object.entries(on))
      stream.addEventListener(name, ({ data, lastEventId }) => does(JSON.parse(data), lastEventId));
  };
  const opened = () => {
    clearTimeout(patience);
    patience = 0;
    onAway(false);
    onOpen(wasOpen);
    wasOpen = true;
  };
  const failed = () => {
    patience ||= setTimeout(onAway, PATIENCE_MS, true);
    if (stream?.readyState !== EventSource.CLOSED) return;
    stop();
    onRefused();
  };
  const turn = () => (document.hidden ? close() : open());
  const stop = () => {
    document.removeEventListener("visibilitychange", turn);
    removeEventListener("pagehide", close);
    removeEventListener("pageshow", open);
    close();
  };

  document.addEventListener("visibilitychange", turn);
  // With an open stream the page could not wait in the back-forward cache.
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
  return stop;
}
