// In the page: the other end of its peer connection, playing OpenAI Realtime. An offer in, the answer out.
async (offer) => {
  const connection = new RTCPeerConnection();
  const context = new AudioContext();
  const voice = new GainNode(context, { gain: 0 });
  const out = context.createMediaStreamDestination();
  const tone = new OscillatorNode(context, { frequency: 300 });
  tone.connect(voice).connect(out);
  tone.start();

  connection.ondatachannel = ({ channel }) => {
    const say = (type, fields) => channel.send(JSON.stringify({ type, event_id: crypto.randomUUID(), ...fields }));
    const done = (id) => {
      const usage = { input_tokens: 10, output_tokens: 5, total_tokens: 15 };
      say("response.done", { response: { id, status: "completed", output: [], usage } });
    };
    const asks = () => {
      const call = { item_id: "i1", output_index: 0, call_id: "c1", name: "get_weather", arguments: '{"city":"Rome"}' };
      say("response.created", { response: { id: "r1", status: "in_progress", output: [] } });
      say("response.function_call_arguments.done", { response_id: "r1", ...call });
      done("r1");
    };
    const speaks = ({ sky }) => {
      say("response.created", { response: { id: "r2", status: "in_progress", output: [] } });
      say("response.output_audio_transcript.delta", { response_id: "r2", item_id: "i2", delta: `Rome is ${sky}.` });
      say("output_audio_buffer.started", { response_id: "r2" });
      voice.gain.value = 0.5;
      setTimeout(() => {
        voice.gain.value = 0;
        say("response.output_audio_transcript.done", { response_id: "r2", item_id: "i2", transcript: `Rome is ${sky}.` });
        done("r2");
        say("output_audio_buffer.stopped", { response_id: "r2" });
      }, 1_000);
    };
    channel.onopen = () => say("session.created", { session: { id: "s1", model: "gpt-realtime" } });
    channel.onmessage = ({ data }) => {
      const { type, item } = JSON.parse(data);
      if (type === "conversation.item.create" && item.type === "message") asks();
      if (type === "conversation.item.create" && item.type === "function_call_output") speaks(JSON.parse(item.output));
    };
  };

  await connection.setRemoteDescription({ type: "offer", sdp: offer });
  connection.addTrack(out.stream.getTracks()[0], out.stream);
  await connection.setLocalDescription();
  const gathered = () => connection.iceGatheringState === "complete";
  await new Promise((resolve) => {
    connection.onicegatheringstatechange = () => gathered() && resolve();
    if (gathered()) resolve();
  });
  return connection.localDescription.sdp;
};
