import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, moment, plural, roughly, times } from "../../otel_voice/pages/format.js";

test("durations are as long as one reads them", () => {
  const said = [0, 480, 999.4, 999.6, 3210, 59_949, 59_950, 192_000, 3_600_000, 3_900_000].map(duration);
  assert.deepEqual(said, [
    "0 ms",
    "480 ms",
    "999 ms",
    "1.0 s",
    "3.2 s",
    "59.9 s",
    "1 min",
    "3 min 12 s",
    "1 h",
    "1 h 5 min",
  ]);
});

test("roughly is what one says", () => {
  assert.deepEqual([480, 16_200, 59_400, 59_600, 192_000, 3_600_000, 5_430_000].map(roughly), [
    "480 ms",
    "16 s",
    "59 s",
    "1 min",
    "3 min",
    "1 h",
    "1 h 31 min",
  ]);
});

test("moments are the call's clock", () => {
  assert.deepEqual(
    [moment(42_300), moment(0, 0), moment(3_723_400), moment(59_999), moment(-1500), moment(61_005, 3)],
    ["0:42.3", "0:00", "1:02:03.4", "1:00.0", "−0:01.5", "1:01.005"],
  );
});

test("counts", () => {
  assert.deepEqual(
    [plural(1, "event"), plural(1200, "event"), times(1), times(2), times(3)],
    ["1 event", "1,200 events", "once", "twice", "3 times"],
  );
});
