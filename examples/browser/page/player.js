// Plays pieces of 16-bit sound one after the other.
const RATE = 24_000;
const AHEAD_S = 0.05;

export class Player {
  #context = new AudioContext({ sampleRate: RATE });
  #until = 0;
  #playing = new Set();
  #onchange;

  /** `onchange(yes)`: whether something sounds. */
  constructor(onchange) {
    this.#onchange = onchange;
    this.gain = this.#connected();
  }

  play(base64) {
    const samples = new Int16Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
    const sound = this.#context.createBuffer(1, samples.length, RATE);
    sound.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32_768));
    const source = new AudioBufferSourceNode(this.#context, { buffer: sound });
    source.connect(this.gain);
    this.#until = Math.max(this.#until, this.#context.currentTime + AHEAD_S);
    source.start(this.#until);
    this.#until += sound.duration;
    this.#add(source);
  }

  #add(source) {
    if (this.#playing.size === 0) this.#onchange(true);
    this.#playing.add(source);
    source.onended = () => this.#playing.delete(source) && this.#playing.size === 0 && this.#onchange(false);
  }

  /** At once: what is scheduled goes with its gain node, and the next answer gets a new one. */
  stop() {
    this.gain.disconnect();
    this.gain = this.#connected();
    this.#until = 0;
    if (this.#playing.size > 0) this.#onchange(false);
    this.#playing.clear();
  }

  close() {
    this.#playing.clear();
    if (this.#context.state !== "closed") this.#context.close();
  }

  #connected() {
    const gain = this.#context.createGain();
    gain.connect(this.#context.destination);
    return gain;
  }
}
