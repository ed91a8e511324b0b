// Numbers, times and counts as people read them.

const numbers = new Intl.NumberFormat("en");
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const number = (value) => numbers.format(value);

export const date = (ms) => whole.format(ms);

/** 480 ms, 3.2 s, 3 min 12 s, 1 h 5 min. */
export function duration(ms) {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return joined(Math.floor(seconds / 60), "min", seconds % 60, "s");
  const minutes = Math.round(seconds / 60);
  return joined(Math.floor(minutes / 60), "h", minutes % 60, "min");
}

const joined = (large, unit, small, rest) => (small ? `${large} ${unit} ${small} ${rest}` : `${large} ${unit}`);

/** As one says it: 16 s, 3 min, 1 h 5 min. */
export function roughly(ms) {
  if (ms < 59_500) return ms < 1000 ? duration(ms) : `${Math.round(ms / 1000)} s`;
  const minutes = Math.round(ms / 60_000);
  return minutes < 60 ? `${minutes} min` : joined(Math.floor(minutes / 60), "h", minutes % 60, "min");
}

/** A moment of the call: 0:42.3, 1:02:03.4; `digits` after the point. */
export function moment(ms, digits = 1) {
  const step = 10 ** digits;
  const units = Math.round((ms / 1000) * step);
  const [seconds, sign] = [Math.abs(units) / step, units < 0 ? "−" : ""];
  const [h, m] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const s = (seconds % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return sign + (h ? `${h}:${String(m).padStart(2, "0")}:${s}` : `${m}:${s}`);
}

export const plural = (count, noun, more = `${noun}s`) => `${number(count)} ${count === 1 ? noun : more}`;

export function times(count) {
  return count === 1 ? "once" : count === 2 ? "twice" : `${number(count)} times`;
}
