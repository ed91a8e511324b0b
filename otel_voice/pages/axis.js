// The time axis: what of the call is in view, where its ticks are, which blocks are drawn. Pure; times are ms.

const CLOSEST_MS = 200;
const STEPS = [10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5];
// Blocks that lie closer are drawn as one: nobody could tell them apart, and a long call has thousands.
const APART_PX = 1;
const SMALL_PX = 3;

/** The view moved and narrowed so that it lies within the range. */
export function clamped({ start, end }, range) {
  const whole = range.end - range.start;
  const length = Math.min(Math.max(end - start, Math.min(CLOSEST_MS, whole)), whole);
  const from = Math.min(Math.max(start, range.start), range.end - length);
  return { start: from, end: from + length };
}

/** Closer by `factor` (over 1) or farther; the moment `t` stays where it is. */
export function zoomed(view, factor, t, range) {
  const length = Math.max((view.end - view.start) / factor, CLOSEST_MS);
  const share = (t - view.start) / (view.end - view.start);
  const start = t - length * share;
  return clamped({ start, end: start + length }, range);
}

export const panned = (view, by, range) => clamped({ start: view.start + by, end: view.end + by }, range);

/** The view with the interval in it: as it is where that is there and large enough to see. */
export function showing(view, { start, end }, range, width) {
  const length = view.end - view.start;
  const large = ((end - start) / length) * width >= 12 || end - start < CLOSEST_MS;
  if (large && start >= view.start && end <= view.end) return view;
  const wanted = large ? Math.max(length, (end - start) * 1.1) : Math.max((end - start) * 6, 10_000);
  const middle = (start + end) / 2;
  return clamped({ start: middle - wanted / 2, end: middle + wanted / 2 }, range);
}

export const isWhole = (view, range) => view.start <= range.start && view.end >= range.end;

/** Where the moment is drawn, in percent of the view's width. */
export const percent = (t, { start, end }) => ((t - start) / (end - start)) * 100;

/** Moments around the view, a round number of ms from the origin, some 90 px apart; `digits`: how exact they are. */
export function ticks(view, origin, width) {
  const least = ((view.end - view.start) / Math.max(width, 1)) * 90;
  const step = STEPS.find((each) => each >= least) ?? Math.ceil(least / 36e5) * 36e5;
  const { start, end } = around(view);
  const found = [];
  for (let t = Math.max(Math.ceil((start - origin) / step) * step, 0); t <= end - origin; t += step)
    found.push(origin + t);
  return { moments: found, digits: step >= 1000 ? 0 : step >= 100 ? 1 : 2 };
}

/** Gives each item the first row in which nothing else runs; answers how many rows there are, `most` at most. */
export function stack(items, most) {
  const ends = [];
  const placed = items.map((item) => {
    const free = ends.findIndex((end) => end <= item.start);
    const row = free >= 0 ? free : Math.min(ends.length, most - 1);
    ends[row] = Math.max(ends[row] ?? -Infinity, item.end);
    return { ...item, row };
  });
  return { items: placed, rows: Math.max(ends.length, 1) };
}

/** The view and half of it on either side, so that it can be moved some way. */
export function around({ start, end }) {
  const margin = (end - start) / 2;
  return { start: start - margin, end: end + margin };
}

/** What is drawn of a lane's items (by start) around the view: blocks, in percent of the view. */
export function blocksOf(items, view, width) {
  const drawn = around(view);
  const ms = (view.end - view.start) / Math.max(width, 1);
  const rows = new Map();
  const blocks = [];
  for (const item of items) {
    if (item.end < drawn.start || item.start > drawn.end) continue;
    const last = rows.get(item.row);
    const small = item.end - item.start < SMALL_PX * ms;
    if (last && small && last.small && item.start - last.end < APART_PX * ms) {
      last.end = Math.max(last.end, item.end);
      last.count += 1;
      last.failed ||= item.failed;
      // A run of them stays one in one place, not a smear over the call.
      last.small = last.end - last.start < 2 * SMALL_PX * ms;
    } else {
      const block = { item, row: item.row, start: item.start, end: item.end, count: 1, small, failed: item.failed };
      rows.set(item.row, block);
      blocks.push(block);
    }
  }
  return blocks.map((block) => placed(block, view));
}

function placed(block, view) {
  // What reaches far outside is cut: browsers draw no element of a million px.
  const from = Math.max(block.start, view.start - (view.end - view.start));
  const to = Math.min(block.end, view.end + (view.end - view.start));
  return { ...block, left: percent(from, view), width: ((to - from) / (view.end - view.start)) * 100 };
}
