/**
 * Prediction with an exported freerun bundle in Node, with onnxruntime-node.
 *
 * node predict.mjs BUNDLE TEXT... prints the greedy output of each text on one line;
 * node predict.mjs --beam-size K BUNDLE TEXT... prints the K best outputs of each text as one JSON object.
 * Text handling and beam search are the modules in ../browser/freerun: copy that directory, too.
 */

import { webcrypto } from "node:crypto";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";

import ort from "onnxruntime-node";

import { Bundle } from "../browser/freerun/bundle.mjs";
import { BundleError } from "../browser/freerun/errors.mjs";
import { openBeam, openGreedy } from "../browser/freerun/model.mjs";

globalThis.crypto ??= webcrypto; // Node 18 does not define it; it verifies the bundle's hashes

async function predict(folder, texts, beamSize) {
  const bundle = await Bundle.open((name) => file(folder, name));
  const model = beamSize > 1 ? await openBeam(ort, bundle) : await openGreedy(ort, bundle);
  for (const text of texts) {
    if (beamSize > 1) console.log(JSON.stringify({ source: text, hypotheses: await model(text, beamSize) }));
    else console.log(text === "" ? "" : await model(text));
  }
}

async function file(folder, name) {
  try {
    return await readFile(path.join(folder, name));
  } catch (error) {
    throw new BundleError(folder, `${name}: ${error.code}`, "Expected an exported bundle", "Check the path");
  }
}

const { values, positionals } = parseArgs({ options: { "beam-size": { type: "string" } }, allowPositionals: true });
const [folder, ...texts] = positionals;
try {
  await predict(folder ?? ".", texts, Number(values["beam-size"] ?? 1));
} catch (error) {
  console.error(error instanceof BundleError ? `error: ${error.message}` : error);
  process.exitCode = error instanceof BundleError ? 2 : 1;
}
