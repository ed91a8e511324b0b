// The list's filters. Their names and values are the read API's, in the page's address as in its requests.

const STATUSES = new Map([["open", "live"], ["closing", "ending"], ["ended", "over"], ["broken", "not mapped"]]);

/** `kind`: text; choice; moment (ms since the epoch); least (`factor` of the API's unit to one of the page's). */
export const FILTERS = [
  { name: "q", label: "search", kind: "text" },
  { name: "status", label: "status", kind: "choice", choices: STATUSES },
  { name: "user", label: "user", kind: "text" },
  { name: "agent", label: "agent", kind: "text" },
  { name: "model", label: "model", kind: "text" },
  { name: "provider", label: "provider", kind: "text" },
  { name: "end_reason", label: "end", kind: "text" },
  { name: "from", label: "from", kind: "moment" },
  { name: "to", label: "to", kind: "moment" },
  { name: "min_duration", label: "duration", kind: "least", unit: "s", factor: 1000 },
  { name: "min_turns", label: "turns", kind: "least" },
  { name: "min_interruptions", label: "interruptions", kind: "least" },
  { name: "min_tools", label: "tool calls", kind: "least" },
  { name: "min_errors", label: "tool errors", kind: "least" },
  { name: "min_p50", label: "p50", kind: "least", unit: "ms" },
  { name: "min_p95", label: "p95", kind: "least", unit: "ms" },
  { name: "min_tokens", label: "tokens", kind: "least" },
  { name: "min_lost", label: "lost events", kind: "least" },
];

const BY_NAME = new Map(FILTERS.map((filter) => [filter.name, filter]));
// A year of four digits, or the browser's field would be asked to show what it cannot.
const LATEST_MS = 253402300799999;

/** The filters in an address, as an object of names and values; what is not a filter is left out. */
export function filtersOf(search) {
  const given = new URLSearchParams(search);
  const found = FILTERS.map(({ name }) => [name, (given.get(name) ?? "").trim()]);
  return Object.fromEntries(found.filter(([, value]) => value));
}

/** The filters as a query ("" when there are none), and with what a request asks besides. */
export function queryOf(filters, more = {}) {
  const named = FILTERS.map(({ name }) => [name, filters[name]]).filter(([, value]) => value);
  const query = new URLSearchParams([...named, ...Object.entries(more)]).toString();
  return query && `?${query}`;
}

/** The filters with these values; an empty one is taken away. */
export function withValues(filters, values) {
  const all = Object.entries({ ...filters, ...values });
  return Object.fromEntries(all.filter(([, value]) => value !== "" && value !== null && value !== undefined));
}

/** What the form's field shows for a value of the API's, and back. */
export function shownIn(name, value) {
  const { kind, factor } = BY_NAME.get(name);
  if (!value) return "";
  if (kind === "moment") return localMoment(value);
  return factor && isNumber(value) ? String(value / factor) : value;
}

export function typedIn(name, shown) {
  const { kind, factor } = BY_NAME.get(name);
  const text = shown.trim();
  if (!text) return "";
  if (kind === "moment") return String(new Date(text).getTime());
  return factor && isNumber(text) ? String(Math.round(text * factor)) : text;
}

/** What a chip says of a filter. */
export function chipText(name, value) {
  const { label, kind, unit, choices } = BY_NAME.get(name);
  if (kind === "least") return `${label} ≥ ${shownIn(name, value)}${unit ? ` ${unit}` : ""}`;
  if (kind === "moment") return `${label} ${localMoment(value).replace("T", " ") || value}`;
  return `${label}: ${choices?.get(value) ?? value}`;
}

function isNumber(text) {
  return Number.isFinite(Number(text));
}

/** "2026-11-24T13:05", or with seconds where there are some: what a datetime-local field takes. */
function localMoment(value) {
  const ms = Number(value);
  if (!(Math.abs(ms) <= LATEST_MS)) return "";
  const at = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const seconds = at.getSeconds() ? `:${two(at.getSeconds())}` : "";
  return `${day}T${two(at.getHours())}:${two(at.getMinutes())}${seconds}`;
}
