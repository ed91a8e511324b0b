const JUMP_MS = 500;
const DRIFT = 5e-5; // of two clocks: an old estimate is worth less than a new one

export const now = () => performance.timeOrigin + performance.now();

/** performance.now() is moved by no setting of the wall clock, but stands still while a laptop sleeps. */
export class Clock {
  #ahead = Date.now() - now();
  #learnt = 0;
  #era = {};

  /** What is known of this moment's clock: add `offset` ms for the receiver's time. It is filled in later. */
  get era() {
    const ahead = Date.now() - now();
    if (Math.abs(ahead - this.#ahead) > JUMP_MS) {
      this.#ahead = ahead;
      this.#era = {};
    }
    return this.#era;
  }

  /** The receiver answered, whose clock said `theirs` between `sent` and now; what stands between may have answered. */
  learn(theirs, sent, era) {
    const came = now();
    const uncertainty = (came - sent) / 2;
    if (!theirs) era.uncertainty ??= null;
    const known = (era.uncertainty ?? Infinity) + (came - this.#learnt) * DRIFT;
    if (!theirs || era !== this.era || uncertainty > known) return;
    this.#learnt = came;
    Object.assign(era, { offset: theirs - sent - uncertainty, uncertainty });
  }
}
