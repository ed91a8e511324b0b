// The twin of otel_voice/adapters/allow.py, and what both providers' modules need to record a connection.

const upTo = (most) => (value) => typeof value === "number" && value >= 0 && value <= most;
const isString = (value) => typeof value === "string";

const LEAVES = {
  string: isString,
  // Counted in code points, as the server does; no 256 of them are longer than 512.
  id: (value) => isString(value) && value !== "" && [...value.slice(0, 513)].length <= 256,
  boolean: (value) => typeof value === "boolean",
  count: (value) => Number.isInteger(value) && upTo(2 ** 53)(value),
  millis: upTo(86_400_000),
  json: () => true,
  marker: (value) => value !== false,
  alone: (value) => value === true,
};

const spelled = {};
const snake = (key) => (spelled[key] ??= key.replace(/[A-Z]/g, "_$&").toLowerCase());

function kept(shape, value) {
  if (value == null) return undefined;
  if (isString(shape)) return LEAVES[shape](value) ? (shape === "marker" ? {} : value) : undefined;
  if (!Array.isArray(shape)) return keptKeys(shape, value);
  const all = [value].flat().map((each) => kept(shape[0], each)).filter((each) => each !== undefined);
  return all.length ? all : undefined;
}

function keptKeys(shape, value) {
  if (typeof value !== "object" || Array.isArray(value)) value = { [shape[""]]: value };
  let all;
  for (const key in shape) {
    const found = key && kept(shape[key], value[key] === undefined ? value[snake(key)] : value[key]);
    if (!key || found === undefined) continue;
    if (shape[key] === "alone") return { [key]: found };
    all = { ...all, [key]: found };
  }
  return all;
}

/** The part of a message that a provider's list keeps, in the protocol's own spelling; undefined when there is none. */
export function reduce(listed, dir, message) {
  const { keyed_by: key, aliases, [dir]: shapes } = listed;
  if (!key) return kept(shapes, message);
  const said = message?.[key];
  const name = isString(said) && Object.hasOwn(aliases, said) ? aliases[said] : said;
  if (isString(name) && Object.hasOwn(shapes, name)) return { [key]: name, ...kept(shapes[name], message) };
}

/** One connection, from its dialling on, as its trace is told of it. */
export class Connection {
  constructor(trace, provider, forward) {
    this.forward = forward;
    this.tell = (dir, messages) => messages.forEach((message) => this.trace.forward(provider, dir, message));
    this.flush = () => this.tell("received", forward.flush());
    this.follow(trace);
  }

  follow(trace) {
    if (this.trace === trace) return;
    this.forget?.();
    this.trace = trace;
    this.forget = trace.beforeEnd(this.flush);
    if (!this.isClosed) trace.opened();
  }

  say(dir, message) {
    this.tell(dir, this.forward.feed(dir, message));
  }

  closed(reason) {
    if (this.isClosed) return;
    this.isClosed = true;
    this.flush();
    this.forget?.();
    this.trace.closed(reason);
  }
}

/** Tells of an object's method `before` each call, and `after` each that succeeds. */
export function wrap(trace, object, name, after, before) {
  const method = object[name];
  if (!method) return;
  object[name] = function (...args) {
    trace.quietly(() => before?.(...args));
    const result = method.apply(this, args);
    trace.quietly(() => after?.(...args));
    return result;
  };
}
