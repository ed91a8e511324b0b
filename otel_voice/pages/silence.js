// Dead air: nobody speaks and no tool runs. Only what was measured counts: where nobody knows, nothing is said.

const LONG_MS = 2_000;

/** [{start, end, kind}]: `wait` from the user's end to the answer, `silence` elsewhere where it is long. */
export function silencesOf(turns) {
  return [...turns.flatMap(waitsIn), ...betweenTurns(turns)].sort((a, b) => a.start - b.start);
}

function waitsIn(turn) {
  if (turn.latency === null || turn.answered === null) return [];
  const start = turn.answered - turn.latency;
  const busy = [...turn.tools, ...turn.userSpeech].map((row) => [row.start, row.end]);
  return freeOf(busy, start, turn.answered).map(([from, to]) => ({ start: from, end: to, kind: "wait", turn }));
}

/** From the end of what was heard in one turn to the first sound of the next. */
function betweenTurns(turns) {
  const found = [];
  for (let place = 1; place < turns.length; place++) {
    const [before, turn] = [turns[place - 1], turns[place]];
    const [from, to] = [lastSound(before), firstSound(turn)];
    if (from === null || to === null) continue;
    const busy = [...before.tools, ...turn.tools].map((row) => [row.start, row.end]);
    for (const [start, end] of freeOf(busy, from, to)) {
      if (end - start >= LONG_MS) found.push({ start, end, kind: "silence", turn });
    }
  }
  return found;
}

/** Null where the answer's playing was not measured. */
function lastSound(turn) {
  if (turn.agentSpeech.length === 0 || turn.agentSpeech.some(({ runs }) => runs)) return null;
  return Math.max(...[...turn.agentSpeech, ...turn.userSpeech].map(({ end }) => end));
}

/** Null where the user spoke and nobody measured when. */
function firstSound(turn) {
  if (turn.userSpeech.length) return Math.min(...turn.userSpeech.map(({ start }) => start));
  return turn.user ? null : turn.answered;
}

/** What is left of [start, end] without the busy intervals. */
export function freeOf(busy, start, end) {
  const free = [];
  let from = start;
  for (const [busyFrom, busyTo] of busy.sort((a, b) => a[0] - b[0])) {
    if (busyFrom > from) free.push([from, Math.min(busyFrom, end)]);
    from = Math.max(from, busyTo);
    if (from >= end) return free.filter(([a, b]) => b > a);
  }
  free.push([from, end]);
  return free.filter(([a, b]) => b > a);
}
