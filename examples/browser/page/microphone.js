// The microphone, as 16-bit samples at 16 kHz.
export class Microphone {
  #context = null;
  #stream = null;
  #closed = false;

  /** Sends to the session until it is closed; resolves with the stream, or null if that was before there was one. */
  async open(session) {
    if (!navigator.mediaDevices) throw new Error("not on this page");
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
    if (this.#closed) {
      this.close();
      return null;
    }
    this.#context = new AudioContext();
    await this.#context.audioWorklet.addModule("capture.js");
    const capture = new AudioWorkletNode(this.#context, "capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => {
      if (!this.#closed) session.sendRealtimeInput({ audio: { data: base64(data), mimeType: "audio/pcm;rate=16000" } });
    };
    this.#context.createMediaStreamSource(this.#stream).connect(capture);
    return this.#stream;
  }

  close() {
    this.#closed = true;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context?.state !== "closed") this.#context?.close();
  }
}

function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}
