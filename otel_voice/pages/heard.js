// Which words of an answer that was cut off were heard: by the call's own pace, for nobody measures words.

import { HEARD } from "./names.js";

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
// Where no answer of the call was heard whole: 150 words a minute, as people speak.
const PACE = 150 / 60_000;

/** Where each word begins; "twenty-four" is one. */
function* beginnings(text) {
  let joined = false;
  for (const { segment, index, isWordLike } of segmenter.segment(text)) {
    if (isWordLike && !joined) yield index;
    joined = segment === "-";
  }
}

export const wordsIn = (text) => [...beginnings(text)].length;

/** Words a ms, over the answers whose playing was measured to their end. */
export function paceOf(turns) {
  let words = 0;
  let ms = 0;
  for (const turn of turns) {
    if (turn.interrupted || turn.row.runs || !turn.agent || !turn.agentSpeech.length) continue;
    words += turn.words ??= wordsIn(turn.agent);
    ms +=
      turn.agentSpeech.reduce((sum, row) => sum + (row.attributes[HEARD] ?? (row.end - row.start) / 1000), 0) * 1000;
  }
  return words && ms ? words / ms : PACE;
}

/** The text up to and with so many words, and the rest. */
export function splitAt(text, words) {
  const index = [...beginnings(text)][words] ?? text.length;
  return [text.slice(0, index), text.slice(index)];
}

/** Gives each of the turn's pieces that the agent said its `heard` and `unheard` text. */
export function unheardIn(turn, pace) {
  let left = Math.max(Math.round(turn.heard * pace), 0);
  for (const piece of turn.pieces) {
    if (piece.kind !== "agent") continue;
    [piece.heard, piece.unheard] = splitAt(piece.text, left);
    left -= wordsIn(piece.heard);
  }
}
