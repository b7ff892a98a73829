import assert from "node:assert/strict";
import { test } from "node:test";

import { Codec } from "../freerun/codec.mjs";
import { english } from "../../../freerun/server/page/english.mjs";
import { percent } from "../../../freerun/server/page/outputs.mjs";
import {
  caseThatHelps,
  describeFeatures,
  describeModel,
  describeUnknown,
  describeUnknownFeatures,
  inCase,
} from "../../../freerun/server/page/words.mjs";

const codec = new Codec({ tokens: "char", normalisation: "NFC", case: "keep", reverse: false }, ["a", "b", "É"]);

test("unknown tokens are named, unseen ones by their number", () => {
  assert.match(describeUnknown(["x", "\u200b", "\u0301"], english), /“x”, “U\+200B”, “U\+0301”: not in the model/);
  assert.match(describeUnknown([..."cdefghijkl"], english), /“j” and 2 others/);
});

test("a case that the model knows is offered", () => {
  const isKnown = (text) => codec.unknown(codec.tokens(text)).length === 0;
  assert.equal(caseThatHelps(["A", "B"], isKnown), "lower");
  assert.equal(caseThatHelps(["é"], isKnown), "upper");
  assert.equal(caseThatHelps(["A", "x"], isKnown), "");
  assert.equal(inCase("aé", "upper"), "AÉ");
});

test("a model is described", () => {
  const model = { cell: "lstm", num_layers: 2, hidden_size: 8, attention: "luong" };
  const config = { model, source: { tokens: "char" }, target: { tokens: "whitespace" } };
  const said = "LSTM, 2 layers of 8 units, Luong attention: characters";
  assert.equal(describeModel(config, english), `${said} to space-separated tokens`);
  const withFeatures = { ...config, features: { separator: ";" } };
  assert.equal(describeModel(withFeatures, english), `${said} and features to space-separated tokens`);
});

test("features are described", () => {
  const described = (separator, tokens) => describeFeatures({ separator, tokens }, english);
  assert.equal(described(";", ["V", "\u200b"]), "Separated by “;”. Known: “V”, “U+200B”.");
  assert.equal(described(" ", [..."abcdefghij"]).slice(0, 37), "Separated by spaces. Known: “a”, “b”,");
  assert.match(described(" ", [..."abcdefghijklmnopqrstu"]), /“t” and 1 other\.$/);
  assert.equal(described("+", []), "Separated by “+”. Known: none.");
  assert.equal(describeUnknownFeatures(["FUT"], english), "“FUT”: not among the model’s features, so mapped to UNK.");
});

test("probabilities are readable", () => {
  assert.deepEqual([1, 0.99951, 0.5, 0.0123, 1e-9, 0].map(percent), ["100%", "100%", "50.0%", "1.2%", "< 0.1%", "0.0%"]);
});
