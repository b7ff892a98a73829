import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";

import { Bundle } from "../freerun/bundle.mjs";
import { BundleError, SourceError } from "../freerun/errors.mjs";
import { sourceInputs } from "../freerun/stepper.mjs";

globalThis.crypto ??= webcrypto; // for Node 18

const SIDE = { tokens: "char", normalisation: "NFC", case: "keep", reverse: false };
const MODEL = {
  source_vocabulary: 5,
  target_vocabulary: 5,
  embedding_size: 1,
  hidden_size: 1,
  num_layers: 1,
  cell: "gru",
  bidirectional: false,
  context: "init",
  attention: "none",
  tied_output: false,
};
const CONFIG = {
  format: "freerun bundle",
  version: 1,
  source: SIDE,
  target: SIDE,
  model: MODEL,
  length_bound: { longest_target: 5, largest_ratio: 1.5 },
  most_frequent_target: "a",
  training: {},
  files: {},
};
const VOCABULARY = { version: 1, tokens: ["a"] };
/** The same with features. */
const WITH_FEATURES = {
  ...CONFIG,
  model: { ...MODEL, feature_vocabulary: 7, feature_encoder: "summary" },
  features: { separator: ";" },
};
const FEATURES = { version: 1, tokens: ["V", "PST", "é"] };

const bytes = (value) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));

/** A bundle in memory, with right hashes unless a file is changed afterwards. */
async function open(config, vocabulary = VOCABULARY, changed = {}) {
  const files = {
    "source_vocabulary.json": vocabulary,
    "target_vocabulary.json": vocabulary,
    "feature_vocabulary.json": FEATURES,
  };
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
  ["a newer version", { ...CONFIG, version: 2 }, /this bundle has version 2.*newer version/],
  ["no version", { ...CONFIG, version: undefined }, /damaged: its version is undefined/],
  ["another version", { ...CONFIG, version: "1" }, /damaged: its version is "1"/],
  ["SentencePiece", { ...CONFIG, target: { ...SIDE, tokens: "sentencepiece:80" } }, /the target has "sentencepiece:80"/],
  ["no length bound", { ...CONFIG, length_bound: undefined }, /damaged: length_bound: this key is missing.*a section/],
  ["a size of 0", { ...CONFIG, model: { ...MODEL, hidden_size: 0 } }, /model.hidden_size: the value is 0\. Expected a whole/],
  ["another vocabulary", { ...CONFIG, model: { ...MODEL, target_vocabulary: 6 } }, /it is 6, and the target.* has 5 ids/],
]) {
  test(`config.json is rejected: ${name}`, async () => {
    await assert.rejects(open(config), (error) => error instanceof BundleError && said.test(error.message));
  });
}

test("a changed file is refused", async () => {
  const changed = { "target_vocabulary.json": { version: 1, tokens: ["b"] } };
  await assert.rejects(open(CONFIG, VOCABULARY, changed), /target_vocabulary.json: its SHA-256 is not/);
});

for (const [name, vocabulary, said] of [
  ["no object", [], /not a JSON object/],
  ["a newer version", { ...VOCABULARY, version: 2 }, /this vocabulary has version 2.*newer version/],
  ["no version", { tokens: ["a"] }, /its version is undefined/],
  ["no tokens", { version: 1, tokens: "a" }, /no list of tokens/],
  ["a token twice", { version: 1, tokens: ["a", "a"] }, /the token "a" occurs twice/],
  ["a number", { version: 1, tokens: [1] }, /the token 1 is not a string/],
  ["half a character", { version: 1, tokens: ["\ud83d"] }, /damaged: the string "\\ud83d" has half a surrogate pair/],
]) {
  test(`a vocabulary is rejected: ${name}`, async () => {
    await assert.rejects(open(CONFIG, vocabulary), (error) => error instanceof BundleError && said.test(error.message));
  });
}

test("a whole character outside of the first plane is a token", async () => {
  const bundle = await open(CONFIG, { version: 1, tokens: ["\ud83d\ude00"] });
  assert.deepEqual(bundle.target.decode([4]), ["\u{1f600}"]);
});

test("ids that are no tokens are refused", async () => {
  const { target } = await open(CONFIG);
  for (const id of [-1, 0, 3, 5, 1.5, NaN]) assert.throws(() => target.decode([id]), BundleError);
});

test("a source of a model with features is two fields", async () => {
  const bundle = await open(WITH_FEATURES);
  assert.deepEqual(bundle.encode("ab", "PST; V;V;;X;Y"), { tokens: ["a", "b"], ids: [4, 3, 2], features: [3, 4, 5] });
  assert.deepEqual(bundle.encode("a", ["e\u0301"]).features, [6]);
  assert.deepEqual(bundle.encode("a", "").features, []);
  assert.deepEqual((await open(CONFIG)).encode("a").features, null);
});

for (const [config, text, features, said] of [
  [WITH_FEATURES, "a", undefined, '"a": it has no features. Expected features separated by ";", because the model was '],
  [WITH_FEATURES, "a", null, 'trained with them; it has "V", "PST", "é". Add the features; "" stands for none.'],
  [WITH_FEATURES, "a", ["PST", "V;3"], '"a": the feature "V;3" contains the separator ";". Expected one feature in each'],
  [CONFIG, "a", "", '"a": it has features, but the model was trained without any. Expected a text alone. Leave the feat'],
]) {
  test(`a source is rejected: ${said}`, async () => {
    const bundle = await open(config);
    assert.throws(
      () => bundle.encode(text, features),
      (error) => error instanceof SourceError && error.message.includes(said),
    );
  });
}

test("the graphs take the ids of features, padded to at least one", () => {
  const ort = { Tensor: class { constructor(type, data, shape) { Object.assign(this, { type, data: Array.from(data), shape }); } } };
  const inputs = (features) => sourceInputs(ort, { ids: [4, 2], features });
  assert.deepEqual(Object.keys(inputs(null)), ["source", "lengths"]);
  assert.deepEqual({ ...inputs([3, 5]).features }, { type: "int64", data: [3n, 5n], shape: [1, 2] });
  assert.deepEqual({ ...inputs([]).features }, { type: "int64", data: [0n], shape: [1, 1] });
});

for (const [name, config, said] of [
  ["no separator", { ...WITH_FEATURES, features: {} }, /features.separator: this key is missing. Expected a text/],
  ["an empty separator", { ...WITH_FEATURES, features: { separator: "" } }, /features.separator: the value is ""/],
  ["no section", { ...WITH_FEATURES, features: undefined }, /damaged: features: this key is missing. Expected a section/],
  ["only the section", { ...WITH_FEATURES, model: MODEL }, /damaged: model.feature_vocabulary: this key is missing/],
  ["a long separator", { ...WITH_FEATURES, features: { separator: "𝒜".repeat(9) } }, /a text of 1 to 8 characters/],
  ["a vocabulary of 0", { ...WITH_FEATURES, model: { ...MODEL, feature_encoder: "summary" } }, /this key is missing/],
  [
    "a sequence without attention",
    { ...WITH_FEATURES, model: { ...WITH_FEATURES.model, feature_encoder: "sequence" } },
    /the value is "sequence". Expected "summary", because there is no attention/,
  ],
  [
    "both without attention",
    { ...WITH_FEATURES, model: { ...WITH_FEATURES.model, feature_encoder: "both" } },
    /the value is "both". Expected "summary", because there is no attention/,
  ],
  [
    "another encoder",
    { ...WITH_FEATURES, model: { ...WITH_FEATURES.model, feature_encoder: "set" } },
    /damaged: model.feature_encoder: the value is "set". Expected one of "summary", "sequence", "both"/,
  ],
  [
    "another vocabulary",
    { ...WITH_FEATURES, model: { ...WITH_FEATURES.model, feature_vocabulary: 8 } },
    /model.feature_vocabulary: it is 8, and the feature vocabulary has 7 ids/,
  ],
]) {
  test(`features are rejected: ${name}`, async () => {
    await assert.rejects(open(config), (error) => error instanceof BundleError && said.test(error.message));
  });
}

test("a changed vocabulary of features is rejected", async () => {
  const changed = { "feature_vocabulary.json": { version: 1, tokens: ["N", "PST", "é"] } };
  await assert.rejects(open(WITH_FEATURES, VOCABULARY, changed), /feature_vocabulary.json: its SHA-256 is not/);
});
