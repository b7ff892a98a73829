import assert from "node:assert/strict";
import { test } from "node:test";

import { metricRows } from "../../../freerun/server/page/about.mjs";

test("a metric has its interval", () => {
  assert.deepEqual(metricRows({ "a.free": 1, "a.free.low": 0.5, "a.free.high": 2, b: null }), [
    { name: "a.free", value: 1, low: 0.5, high: 2 },
    { name: "b", value: null, low: undefined, high: undefined },
  ]);
});
