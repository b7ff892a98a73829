import assert from "node:assert/strict";
import { test } from "node:test";

import { Latest } from "../page/latest.mjs";

const milliseconds = (count) => new Promise((resolve) => setTimeout(resolve, count));

test("a newer request ends the older one, and they never run at the same time", async () => {
  const latest = new Latest();
  const seen = [];
  let [begun, release] = [];
  const running = new Promise((resolve) => (begun = resolve));
  const released = new Promise((resolve) => (release = resolve));
  const task = (name) => async (pause) => {
    seen.push(`${name} begins`);
    for (let step = 0; step < 3; step += 1) {
      await pause();
      begun();
      await released;
      seen.push(name);
    }
    return name;
  };
  const older = latest.run(task("older"));
  await running;
  const skipped = latest.run(task("skipped"));
  const newer = latest.run(task("newer"));
  release();
  assert.deepEqual(await Promise.all([older, skipped, newer]), [undefined, undefined, "newer"]);
  assert.deepEqual(seen, ["older begins", "older", "newer begins", "newer", "newer", "newer"]);
});

test("what was stopped gives nothing", async () => {
  const latest = new Latest();
  const running = latest.run(() => milliseconds(1).then(() => "found"));
  latest.stop();
  assert.equal(await running, undefined);
});

test("an error is reported, and the next request runs", async () => {
  const latest = new Latest();
  await assert.rejects(
    latest.run(() => Promise.reject(new Error("no"))),
    /no/,
  );
  assert.equal(await latest.run(async () => 1), 1);
});
