// In the audio thread: the microphone's sound down to 16 kHz, in pieces of 40 ms.
const RATE = 16_000;
const PIECE = 640;

class Capture extends AudioWorkletProcessor {
  #piece = new Int16Array(PIECE);
  #filled = 0;
  #sum = 0;
  #count = 0;
  #phase = 0;

  /** One sample out is the mean of those that came in its time: a low-pass good enough for speech. */
  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#sum += sample;
      this.#count += 1;
      this.#phase += RATE / sampleRate;
      if (this.#phase < 1) continue;
      this.#put(this.#sum / this.#count);
      this.#phase -= 1;
      this.#sum = this.#count = 0;
    }
    return true;
  }

  #put(sample) {
    this.#piece[this.#filled++] = Math.max(-1, Math.min(1, sample)) * 32_767;
    if (this.#filled < PIECE) return;
    this.port.postMessage(this.#piece.buffer.slice(0));
    this.#filled = 0;
  }
}

registerProcessor("capture", Capture);
