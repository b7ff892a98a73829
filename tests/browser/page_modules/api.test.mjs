import assert from "node:assert/strict";
import { test } from "node:test";

import { Api, Latest, Problem, retryAfter } from "../../../freerun/server/page/api.mjs";

const json = (content, status = 200, headers = {}) => new Response(JSON.stringify(content), { status, headers });

/** An Api whose server gives `answers` one by one (an Error: none), and what happened. */
function scene(answers, { key = null, keys = [] } = {}) {
  const log = { waits: [], sent: [], asked: [] };
  const fetch = async (path, options) => {
    log.sent.push([path, options]);
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const store = {
    value: key,
    async ask(rejected) {
      log.asked.push(rejected);
      this.value = keys.shift() ?? null;
      return this.value !== null;
    },
  };
  const onWait = (wait) => log.waits.push(wait && [wait.milliseconds, wait.busy]);
  return { log, api: new Api({ fetch, key: store, onWait, sleep: async () => {} }) };
}

test("an answer is read, and a body sent", async () => {
  const { api, log } = scene([json({ a: 1 })]);
  assert.deepEqual((await api.post("v1/x", { texts: ["é"] })).content, { a: 1 });
  const [[path, { method, body, headers }]] = log.sent;
  assert.deepEqual([path, method, body, headers], ["v1/x", "POST", '{"texts":["é"]}', { "Content-Type": "application/json" }]);
});

test("a server that is gone is tried again, with longer waits, until it is back", async () => {
  const gone = () => new TypeError("Failed to fetch");
  const { api, log } = scene([gone(), gone(), json({}, 502), json([1])]);
  assert.deepEqual(await api.get("x"), [1]);
  assert.deepEqual(log.waits, [[500, false], [1000, false], [2000, false], null]);
});

test("waits have an end, and a success begins them anew", async () => {
  const { api, log } = scene([...Array.from({ length: 8 }, () => new TypeError()), json(1), new TypeError(), json(2)]);
  await api.get("x");
  await api.get("x");
  assert.deepEqual(log.waits.slice(5), [[15000, false], [15000, false], [15000, false], null, [500, false], null]);
});

test("a busy server says when to try again", async () => {
  const { api, log } = scene([json({}, 503, { "Retry-After": "3" }), json({}, 503), json(1)]);
  assert.equal(await api.get("x"), 1);
  assert.deepEqual(log.waits, [[3000, true], [500, true], null]);
});

test("the time of an answer has no waits in it", async () => {
  const answers = [json({}, 503), json(1)];
  const sleep = () => new Promise((resolve) => setTimeout(resolve, 200));
  const api = new Api({ fetch: async () => answers.shift(), key: { value: null }, onWait() {}, sleep });
  const { milliseconds } = await api.post("x", {});
  assert.ok(milliseconds >= 0 && milliseconds < 100, `${milliseconds} ms`);
});

test("Retry-After may be a date", () => {
  const at = (value) => retryAfter(new Headers(value ? { "Retry-After": value } : {}), Date.UTC(2026, 0, 1));
  assert.equal(at("Thu, 01 Jan 2026 00:00:07 GMT"), 7000);
  assert.equal(at("Thu, 01 Jan 2020 00:00:00 GMT"), 500);
  assert.deepEqual([at("soon"), at("")], [null, null]);
});

test("a problem has the server's words", async () => {
  const { api } = scene([json({ title: "Too large", detail: "texts[0]: too long." }, 413), new Response("<html>", { status: 500 })]);
  await assert.rejects(api.get("x"), (error) => error instanceof Problem && error.status === 413 && error.detail === "texts[0]: too long.");
  await assert.rejects(api.get("x"), (error) => error.status === 500 && error.detail === "");
});

test("a problem names the limit that was exceeded", async () => {
  const { api } = scene([json({ detail: "Too long.", limit: "max-tokens", maximum: 9 }, 413)]);
  await assert.rejects(api.get("x"), { limit: "max-tokens", maximum: 9, detail: "Too long." });
});

test("an answer that is not JSON is a problem", async () => {
  await assert.rejects(scene([new Response("hello")]).api.get("x"), Problem);
});

test("a key is asked for, sent, and asked for again if it is wrong", async () => {
  const { api, log } = scene([json({}, 401), json({}, 401), json(1)], { keys: ["wrong", "right"] });
  assert.equal(await api.get("x"), 1);
  assert.deepEqual(log.asked, [false, true]);
  assert.deepEqual(log.sent.map(([, { headers }]) => headers?.Authorization), [undefined, "Bearer wrong", "Bearer right"]);
});

test("without a key the server's answer stands", async () => {
  const { api } = scene([json({ detail: "No key." }, 401)]);
  await assert.rejects(api.get("x"), /No key/);
});

test("an aborted request ends, also while it waits", async () => {
  const api = new Api({ fetch: async () => json({}, 503), key: { value: null }, onWait() {} });
  const latest = new Latest();
  const running = latest.run((signal) => api.get("x", signal));
  setTimeout(() => latest.stop(), 5);
  assert.equal(await running, undefined);
});

test("only the latest request has a result", async () => {
  const latest = new Latest();
  const older = latest.run(async () => "older");
  const newer = latest.run(async () => "newer");
  assert.deepEqual([await older, await newer], [undefined, "newer"]);
  await assert.rejects(latest.run(() => Promise.reject(new Error("no"))), /no/);
});
