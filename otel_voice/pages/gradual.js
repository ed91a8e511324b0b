// A long list whose entries are filled as they come near the view, and the rest while nothing else is to be done: the
// page is there at once, and what one searches it for is found.

const NEAR = "600px 0px";
const AT_ONCE = 20;
// On a busy machine no moment is idle.
const PATIENCE_MS = 100;

export class Gradual {
  #fill;
  #waiting = new Map();
  #seen;
  #idle = 0;
  #count = 0;

  /** `fill(node, entry)` writes what an entry says. */
  constructor(scroller, fill) {
    this.#fill = fill;
    this.#seen = new IntersectionObserver((seen) => this.#onSeen(seen), { root: scroller, rootMargin: NEAR });
  }

  /** The entry that the node shows, soon. */
  put(node, entry) {
    if (node.dataset.filled || this.#count < AT_ONCE) return this.#write(node, entry);
    if (!this.#waiting.has(node)) this.#seen.observe(node);
    this.#waiting.set(node, entry);
    this.#idle ||= whenIdle((deadline) => this.#go(deadline));
  }

  /** Now: somebody goes there. */
  now(...nodes) {
    for (const node of nodes) if (this.#waiting.has(node)) this.#write(node, this.#waiting.get(node));
  }

  #write(node, entry) {
    this.#count += node.dataset.filled ? 0 : 1;
    node.dataset.filled = "yes";
    if (this.#waiting.delete(node)) this.#seen.unobserve(node);
    this.#fill(node, entry);
  }

  #onSeen(seen) {
    for (const { target, isIntersecting } of seen) if (isIntersecting) this.now(target);
  }

  #go(deadline) {
    let count = 0;
    for (const [node, entry] of this.#waiting) {
      if (!node.isConnected) this.#waiting.delete(node);
      else this.#write(node, entry);
      // Of thousands, a busy page would fill one a frame.
      if (++count >= AT_ONCE && deadline.timeRemaining() < 4) break;
    }
    this.#idle = this.#waiting.size ? whenIdle((next) => this.#go(next)) : 0;
  }
}

/** Safari has no idle callbacks. */
function whenIdle(does) {
  if (globalThis.requestIdleCallback) return requestIdleCallback(does, { timeout: PATIENCE_MS });
  const from = performance.now();
  return setTimeout(() => does({ timeRemaining: () => from + 25 - performance.now() }), 20);
}
