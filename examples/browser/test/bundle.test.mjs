import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";

import { Bundle } from "../freerun/bundle.mjs";
import { BundleError } from "../freerun/errors.mjs";

globalThis.crypto ??= webcrypto; // for Node 18

const SIDE = { tokens: "char", normalisation: "NFC", case: "keep", reverse: false };
const CONFIG = { format: "freerun bundle", version: 1, source: SIDE, target: SIDE, length_bound: {}, files: {} };
const VOCABULARY = { version: 1, tokens: ["a"] };

const bytes = (value) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));

/** A bundle in memory, with right hashes unless a file is changed afterwards. */
async function open(config, vocabulary = VOCABULARY, changed = {}) {
  const files = { "source_vocabulary.json": vocabulary, "target_vocabulary.json": vocabulary };
  const hashes = {};
  for (const [name, content] of Object.entries(files)) {
    const digest = await crypto.subtle.digest("SHA-256", bytes(content));
    hashes[name] = Buffer.from(digest).toString("hex");
  }
  const whole = typeof config === "object" && config.files ? { ...config, files: { ...hashes, ...config.files } } : config;
  const every = { "config.json": whole, ...files, ...changed };
  return Bundle.open(async (name) => bytes(every[name]));
}

test("a bundle is opened, and tells its precisions", async () => {
  const files = { "step.onnx": "", "encoder.onnx": "", "step.int8.onnx": "" };
  const bundle = await open({ ...CONFIG, files });
  assert.deepEqual(bundle.source.encode(["a", "b"]), [4, 3, 2]);
  assert.deepEqual(bundle.precisions("step"), ["fp32", "int8"]);
  assert.deepEqual(bundle.precisions("step", "encoder"), ["fp32"]);
  await assert.rejects(bundle.graph("encoder", "int8"), /it has no encoder.int8.onnx.*--quantize int8/);
});

for (const [name, config, said] of [
  ["no JSON", "{", /config.json: it is not JSON/],
  ["another format", { ...CONFIG, format: "x" }, /not of a freerun bundle/],
  ["no object", "null", /not of a freerun bundle/],
  ["a newer version", { ...CONFIG, version: 2 }, /this bundle has version 2.*newer example/],
  ["no version", { ...CONFIG, version: undefined }, /version undefined/],
  ["SentencePiece", { ...CONFIG, target: { ...SIDE, tokens: "sentencepiece:80" } }, /the target has "sentencepiece:80"/],
  ["no length bound", { ...CONFIG, length_bound: undefined }, /damaged/],
]) {
  test(`config.json is refused: ${name}`, async () => {
    await assert.rejects(open(config), (error) => error instanceof BundleError && said.test(error.message));
  });
}

test("a changed file is refused", async () => {
  const changed = { "target_vocabulary.json": { version: 1, tokens: ["b"] } };
  await assert.rejects(open(CONFIG, VOCABULARY, changed), /target_vocabulary.json: its SHA-256 is not/);
});

test("a newer vocabulary is refused", async () => {
  await assert.rejects(open(CONFIG, { ...VOCABULARY, version: 2 }), /not a vocabulary that this example knows/);
});
