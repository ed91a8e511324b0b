// The server's bins as what a plot draws, and as the table that says the same.

import { latency } from "./figures.js";
import { plural } from "./format.js";

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

/** `over_time` for uPlot: starts of bins and their counts; null when there is nothing to draw. */
export function overTime({ from, bin_ms: bin, counts }) {
  if (!counts.some(Boolean)) return null;
  const starts = counts.map((_, index) => from + index * bin);
  return { data: [starts, counts], range: [from, from + counts.length * bin] };
}

/** `latency` for uPlot, as steps: edges in ms, and the counts of both percentiles; empty bins at the end are left off. */
export function latencies({ bin_ms: bin, p50, p95 }) {
  const length = 1 + Math.max(p50.findLastIndex(Boolean), p95.findLastIndex(Boolean));
  if (!length) return null;
  const edges = Array.from({ length: length + 1 }, (_, index) => index * bin);
  const steps = (counts) => edges.map((_, index) => (index < length ? (counts[index] ?? 0) : 0));
  return { data: [edges, steps(p50), steps(p95)], range: [0, length * bin] };
}

/** Which bin a place on the axis is in; null when in none. */
export function binAt(value, from, bin, length) {
  const index = Math.floor((value - from) / bin);
  return index >= 0 && index < length ? index : null;
}

/** What was dragged over, widened to whole bins. */
export function wholeBins([low, high], from, bin) {
  const down = Math.floor((low - from) / bin) * bin;
  const up = Math.ceil((high - from) / bin) * bin;
  return [Math.round(from + down), Math.round(from + Math.max(up, down + bin))];
}

/** "24 Nov, 13:00 to 14:00", or days when the bins are of days. */
export function timeSpan(from, bin) {
  const day = format({ day: "numeric", month: "short" });
  if (bin >= DAY) return bin >= 2 * DAY ? `${day(from)} to ${day(from + bin - 1)}` : day(from);
  const time = format({ hour: "2-digit", minute: "2-digit", ...(bin < MINUTE && { second: "2-digit" }) });
  return `${day(from)}, ${time(from)} to ${time(from + bin)}`;
}

/** Labels of a time axis: the day where it begins, else the time. */
export function timeLabels(splits, step) {
  const day = format({ day: "numeric", month: "short" });
  if (step >= DAY) return splits.map(day);
  const time = format({ hour: "2-digit", minute: "2-digit", ...(step < MINUTE && { second: "2-digit" }) });
  return splits.map((at, index) => (index && isMidnight(at) ? day(at) : time(at)));
}

/** Labels of an axis of ms: 0, 500 ms, 1.5 s. */
export function latencyLabels(splits) {
  return splits.map((ms) => (ms === 0 ? "0" : ms < 1000 ? `${ms} ms` : `${+(ms / 1000).toFixed(1)} s`));
}

export const latencySpan = (index, bin) => `${latency(index * bin)} to ${latency((index + 1) * bin)}`;

/** Rows of a plot's table: only bins that have something. */
export function overTimeRows({ from, bin_ms: bin, counts }) {
  const rows = counts.map((count, index) => [timeSpan(from + index * bin, bin), count]);
  return rows.filter(([, count]) => count);
}

export function latencyRows({ bin_ms: bin, p50, p95 }) {
  const length = Math.max(p50.length, p95.length);
  const rows = Array.from({ length }, (_, index) => [latencySpan(index, bin), p50[index] ?? 0, p95[index] ?? 0]);
  return rows.filter(([, ...counts]) => counts.some(Boolean));
}

/** What the pointer's bin holds. */
export function overTimeReading({ from, bin_ms: bin, counts }, index) {
  return `${timeSpan(from + index * bin, bin)}: ${plural(counts[index], "session")}`;
}

export function latencyReading({ bin_ms: bin, p50, p95 }, index) {
  return `${latencySpan(index, bin)}: ${p50[index] ?? 0} by p50, ${p95[index] ?? 0} by p95`;
}

function format(options) {
  const made = new Intl.DateTimeFormat(undefined, options);
  return (at) => made.format(at);
}

function isMidnight(at) {
  const date = new Date(at);
  return date.getHours() === 0 && date.getMinutes() === 0;
}
