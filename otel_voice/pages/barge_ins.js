// When the agent was interrupted: the trace says that and by whom, the moment follows from who was audible.

// A barge-in ends the answer within this: detection and the way back.
const NEAR_MS = 2_000;

export function bargeInsOf(turns) {
  return turns
    .map((turn, place) => ({ turn, next: turns[place + 1] ?? null }))
    .filter(({ turn }) => turn.interrupted)
    .map(({ turn, next }) => ({ t: momentOf(turn, next), turn, source: turn.interruptedBy ?? "user_speech" }));
}

function momentOf(turn, next) {
  const spoken = [...turn.userSpeech, ...(next?.userSpeech ?? [])]
    .map(({ start }) => start)
    .filter((t) => t > (turn.answered ?? turn.start) && Math.abs(t - turn.end) < NEAR_MS);
  if (turn.interruptedBy !== "programmatic" && spoken.length) return Math.min(...spoken);
  const stopped = turn.agentSpeech.map(({ end }) => end);
  return stopped.length ? Math.max(...stopped) : turn.end;
}
