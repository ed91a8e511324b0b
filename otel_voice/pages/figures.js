// A list's figures: what nobody measured is a dash, large counts are short, times are the viewer's own.

import { duration, number } from "./format.js";

export const NONE = "–";

const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const DAY_AND_TIME = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
const thisYear = new Intl.DateTimeFormat(undefined, DAY_AND_TIME);
const otherYear = new Intl.DateTimeFormat(undefined, { year: "numeric", ...DAY_AND_TIME });

/** 755 ms, 1.9 s, or a dash. */
export const latency = (ms) => (ms === null || ms === undefined ? NONE : duration(ms));

/** 940, 12.3k, 4M. */
export function compact(count) {
  if (count < 1000) return number(count);
  return count < 999_950 ? `${tenth.format(count / 1000)}k` : `${tenth.format(count / 1_000_000)}M`;
}

/** A day and a time; with the year where it is not this one. */
export function started(ms, now = Date.now()) {
  const isThisYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return (isThisYear ? thisYear : otherYear).format(ms);
}

export const startedInFull = (ms) => full.format(ms);

/** A reason as one reads it. */
export const words = (name) => name.replaceAll("_", " ");
