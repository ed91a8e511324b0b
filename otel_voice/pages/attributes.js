// A span's attributes as a table; what is JSON is shown as such, what is long is folded.

import { element } from "./elements.js";

const LONG = 300;

function rowsOf(span) {
  const own = Object.entries({ trace_id: span.trace_id, span_id: span.span_id, kind: span.kind });
  const links = (span.links ?? []).map((link) => ["link", link]);
  return [...Object.entries(span.attributes ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)), ...own, ...links];
}

export const attributesOf = (span) => table(rowsOf(span));

const table = (rows) =>
  element(
    "table",
    {},
    element(
      "tbody",
      {},
      rows.map(([key, value]) =>
        element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, shown(value))),
      ),
    ),
  );

function shown(value) {
  const text = typeof value === "string" ? indented(value) : JSON.stringify(value);
  if (text.length <= LONG) return element("pre", {}, text);
  return element(
    "details",
    {},
    element("summary", {}, `${text.slice(0, 80).replace(/\s+/g, " ")}… (${text.length} characters)`),
    element("pre", {}, text),
  );
}

/** JSON in a string is shown as such. */
function indented(text) {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
