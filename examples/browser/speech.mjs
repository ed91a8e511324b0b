// Text to speech, in this process, by eSpeak NG compiled to WebAssembly.
import Espeak from "@echogarden/espeak-ng-emscripten";

export const RATE = 24_000;
const CHUNK = RATE * 0.08;
const PIECE_S = 0.7; // of a transcript, as long as the real ones' are

const voice = new (await Espeak()).eSpeakNGWorker();
voice.set_voice("en-us", "en-us");
synthesized("The first words take a second longer than all later ones.");

/** The text as chunks of sound, 16 bit at RATE: { at: seconds, samples, text }, the last for a transcript's next piece. */
export function* spoken(text) {
  let begin = 0;
  // Sentence by sentence: meanwhile nothing else happens in this process.
  for (const sentence of text.match(/[^.?!]+[.?!]*\s*/g) ?? []) {
    const { samples, pieces } = synthesized(sentence);
    for (let from = 0; from < samples.length; from += CHUNK) {
      const due = pieces.filter(({ at }) => at >= from / RATE && at < (from + CHUNK) / RATE);
      const words = due.map((piece) => piece.text).join("");
      yield { at: (begin + from) / RATE, samples: samples.subarray(from, from + CHUNK), text: words };
    }
    begin += samples.length;
  }
}

function synthesized(text) {
  const sounds = [];
  const words = [];
  voice.synthesize(text, (audio, events) => {
    if (audio) sounds.push(new Int16Array(audio.slice(0)));
    words.push(...(events ?? []).filter((event) => event.type === "word"));
  });
  return { samples: resampled(joined(sounds), voice.get_samplerate()), pieces: spelled(text, words) };
}

function joined(sounds) {
  const whole = new Int16Array(sounds.reduce((length, sound) => length + sound.length, 0));
  let at = 0;
  for (const sound of sounds) {
    whole.set(sound, at);
    at += sound.length;
  }
  return whole;
}

function resampled(samples, rate) {
  return Int16Array.from({ length: Math.floor((samples.length * RATE) / rate) }, (_, index) => {
    const at = (index * rate) / RATE;
    const before = Math.floor(at);
    const after = Math.min(before + 1, samples.length - 1);
    return samples[before] + (samples[after] - samples[before]) * (at - before);
  });
}

/** A few words a piece; each reaches to where the next one begins, so that together they are the text. */
function spelled(text, words) {
  const firsts = [];
  for (const { audio_position, text_position } of words) {
    const at = audio_position / 1000;
    if (firsts.length === 0) firsts.push({ at: 0, from: 0 });
    else if (at >= firsts.at(-1).at + PIECE_S) firsts.push({ at, from: text_position - 1 });
  }
  return firsts.map(({ at, from }, index) => ({ at, text: text.slice(from, firsts[index + 1]?.from) }));
}
