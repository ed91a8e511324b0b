// Hears when somebody speaks, by energy alone: enough for a script, and no more than that.
const FRAME = 320; // 20 ms at 16 kHz
const LOUD = 0.02; // of full scale; a quiet room is at a tenth of it
const FRAMES_OF_SPEECH = 5;
const FRAMES_OF_SILENCE = 30;

export class Ears {
  #left = new Int16Array(0);
  #frames = 0;
  #run = 0;
  #began = null;

  /** Samples at 16 kHz in; out come { type: "began" | "ended", at: seconds, seconds }. */
  *hear(samples) {
    const all = Int16Array.of(...this.#left, ...samples);
    const whole = all.length - (all.length % FRAME);
    this.#left = all.slice(whole);
    for (let at = 0; at < whole; at += FRAME) {
      const heard = this.#frame(loudness(all.subarray(at, at + FRAME)) > LOUD);
      if (heard) yield heard;
    }
  }

  #frame(isLoud) {
    this.#frames += 1;
    const speaking = this.#began !== null;
    this.#run = isLoud === speaking ? 0 : this.#run + 1;
    if (this.#run < (speaking ? FRAMES_OF_SILENCE : FRAMES_OF_SPEECH)) return null;
    const at = ((this.#frames - this.#run) * FRAME) / 16_000;
    this.#run = 0;
    const began = this.#began;
    this.#began = speaking ? null : at;
    return speaking ? { type: "ended", at, seconds: at - began } : { type: "began", at };
  }
}

function loudness(frame) {
  return Math.sqrt(frame.reduce((sum, sample) => sum + sample * sample, 0) / frame.length) / 32_768;
}
