// The agent's tools. Each runs on the app's own backend, which gets the trace's context.
export const TOOLS = [
  {
    name: "get_weather",
    description: "The weather in a city now",
    parametersJsonSchema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
];

export async function run(trace, callId, name, { city }) {
  try {
    const answer = await trace.fetch(`/api/weather?${new URLSearchParams({ city })}`, {}, { callId });
    if (!answer.ok) throw new Error(`${name} answered ${answer.status}`);
    return await answer.json();
  } catch (error) {
    return { error: error.message };
  }
}
