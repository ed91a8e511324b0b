// What lanes are made of: tracks, blocks on them, points, and where they are put.

import { around, percent } from "./axis.js";
import { element } from "./elements.js";
import { duration } from "./format.js";

export const content = () => element("div", { class: "content" });

export function laneOf(name, inside, key) {
  const hidden = name ? null : "true";
  const track = element("div", { class: "track" }, inside);
  return element(
    "div",
    { class: `lane ${key}`, "aria-hidden": hidden },
    element("span", { class: "lane-name" }, name),
    track,
  );
}

/** Whether what was drawn for `base` has all that is in view, at its scale. */
export function covers(base, view) {
  const [length, { start, end }] = [base.end - base.start, around(base)];
  return Math.abs(view.end - view.start - length) < length * 1e-9 && view.start >= start && view.end <= end;
}

export function saysOf({ name, start, end, count }) {
  const what = name === "wait" ? " until the answer" : "";
  return `Dead air: ${duration(end - start)}${count > 1 ? ", in more than one turn" : what}`;
}

export function make({ point, item }) {
  if (point) {
    return element("button", {
      type: "button",
      tabindex: "-1",
      class: `point ${point.kind}`,
      "data-id": point.id,
      title: point.says,
      "aria-label": point.says,
    });
  }
  const classes = `block ${item.kind}${item.cancelled ? " cancelled" : ""}`;
  return element("button", { type: "button", tabindex: "-1", class: classes, "data-id": item.id }, element("span", {}));
}

export function put(node, { left, width }) {
  node.style.left = `${left}%`;
  node.style.width = width ? `${width}%` : "";
}

export const spanned = ({ start, end }, view) => ({
  start,
  end,
  left: percent(start, view),
  width: percent(end, view) - percent(start, view),
});

/** Those around the view; of a kind's that would lie on each other, one. */
export function near(moments, view, width) {
  const least = ((view.end - view.start) / Math.max(width, 1)) * 2;
  const { start, end } = around(view);
  const last = new Map();
  return moments.filter(({ t, kind }) => {
    if (t < start || t > end || t - (last.get(kind) ?? -Infinity) < least) return false;
    last.set(kind, t);
    return true;
  });
}

export function pointEntries(points, view, width) {
  return near(points, view, width).map((point) => ({
    key: `point ${point.kind} ${point.id}`,
    point,
    left: percent(point.t, view),
    width: 0,
  }));
}
