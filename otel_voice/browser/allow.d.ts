import type { Direction, EndReason, Provider, VoiceTrace } from "./otel-voice.js";

/** The part of a message that a provider's allow-list keeps, in the protocol's own spelling; undefined when none. */
export function reduce(listed: object, dir: Direction, message: unknown): object | undefined;

/** A connection as its trace is told of it: for another provider's module. */
export class Connection {
  constructor(
    trace: VoiceTrace,
    provider: Provider,
    forward: { feed(dir: Direction, message: unknown): object[]; flush(): object[] },
  );
  say(dir: Direction, message: unknown): void;
  opened(): void;
  /** Only the first time counts. */
  closed(reason: EndReason): void;
}

/** Replaces a method by one that also tells `before` each call, and `after` each that succeeds. */
export function wrap(
  trace: VoiceTrace,
  object: object,
  name: string,
  after?: ((...args: any[]) => unknown) | null,
  before?: ((...args: any[]) => unknown) | null,
): void;
