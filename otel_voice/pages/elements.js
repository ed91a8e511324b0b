// DOM made of elements and text nodes: what a call contains is text, whatever it looks like.

/** Functions are listeners by their event's name; null, undefined and false leave an attribute or child out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...present(children));
  return made;
}

export const fill = (parent, ...children) => parent.replaceChildren(...present(children));

const present = (children) =>
  children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);

/** Text that grows keeps what is selected in it. */
export function setText(parent, text) {
  const node = parent.firstChild;
  if (node === null) parent.append(text);
  else if (text.startsWith(node.data)) {
    if (text.length > node.data.length) node.appendData(text.slice(node.data.length));
  } else node.data = text;
}

const kept = new WeakMap();

/** Makes the parent's children those of the entries, by `key`: made once, updated after, in the entries' order. */
export function reconcile(parent, entries, make, update = () => {}) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  let place = parent.firstChild;
  for (const entry of entries) {
    const node = before.get(entry.key) ?? make(entry);
    before.delete(entry.key);
    now.set(entry.key, node);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(node, entry);
  }
  for (const node of before.values()) node.remove();
  kept.set(parent, now);
}

/** Scrolls the panel, and nothing else, so far that the node is in view: again, once what it passes has its height. */
export function reveal(node, panel, again = true) {
  if (again) requestAnimationFrame(() => reveal(node, panel, false));
  const [box, own] = [node.getBoundingClientRect(), panel.getBoundingClientRect()];
  if (box.top < own.top || box.bottom > own.bottom) panel.scrollTop += box.top - own.top - own.height / 4;
}

/** An address that the receiver told, if it is one to go to. */
export function webAddress(url) {
  return typeof url === "string" && /^https?:\/\//i.test(url) ? url : null;
}
