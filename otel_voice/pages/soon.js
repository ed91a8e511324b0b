// Work that many things ask for, done now and then.

/** A function that has `work` done soon, and not again within `everyMs`; where `work` answers false it is tried later. */
export function atMost(everyMs, work) {
  let timer = 0;
  let last = -Infinity;
  const soon = () => {
    timer ||= setTimeout(now, Math.max(last + everyMs - performance.now(), 0));
  };
  const now = () => {
    timer = 0;
    last = performance.now();
    if (work() === false) soon();
  };
  return soon;
}
