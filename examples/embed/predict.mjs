/**
 * Prediction with an exported freerun bundle in Node, with onnxruntime-node.
 *
 * node predict.mjs BUNDLE TEXT... prints the greedy output of each text on one line;
 * node predict.mjs --beam-size K BUNDLE TEXT... prints the K best outputs of each text as one JSON object.
 * If the model reads features, a text is followed by a tab and its features: $'walk\tV;PST'.
 * Text handling and beam search are the modules in ../browser/freerun: copy that directory, too.
 */

import { webcrypto } from "node:crypto";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";

import ort from "onnxruntime-node";

import { Bundle } from "../browser/freerun/bundle.mjs";
import { BundleError, FreerunError, SourceError } from "../browser/freerun/errors.mjs";
import { openBeam, openGreedy } from "../browser/freerun/model.mjs";

globalThis.crypto ??= webcrypto; // Node 18 does not define it; it verifies the bundle's hashes

/** The output of an empty line, whatever the model would predict, as in `freerun predict`. */
const EMPTY = { text: "", tokens: [], score: 0, tokenScores: [], truncated: false };

async function predict(folder, lines, beamSize) {
  const bundle = await Bundle.open((name) => file(folder, name));
  const model = beamSize > 1 ? await openBeam(ort, bundle) : await openGreedy(ort, bundle);
  for (const line of lines) {
    const [source, features] = line === "" && bundle.features ? ["", ""] : fields(line);
    if (beamSize > 1) {
      const hypotheses = line === "" ? [EMPTY] : await model(source, features, beamSize);
      console.log(JSON.stringify({ source, features, hypotheses })); // undefined features are left out
    } else {
      console.log(line === "" ? "" : await model(source, features));
    }
  }
}

/** Return the fields of a line: the source, and its features after a tab, if any. */
function fields(line) {
  const parts = line.split("\t");
  if (parts.length > 2) {
    const what = `${parts.length} tab-separated fields`;
    throw new SourceError(JSON.stringify(line), what, "Expected at most 2: a source and its features", "Remove the others");
  }
  return parts;
}

async function file(folder, name) {
  try {
    return await readFile(path.join(folder, name));
  } catch (error) {
    throw new BundleError(folder, `${name}: ${error.code}`, "Expected an exported bundle", "Check the path");
  }
}

const { values, positionals } = parseArgs({ options: { "beam-size": { type: "string" } }, allowPositionals: true });
const [folder, ...lines] = positionals;
try {
  await predict(folder ?? ".", lines, Number(values["beam-size"] ?? 1));
} catch (error) {
  console.error(error instanceof FreerunError ? `error: ${error.message}` : error);
  process.exitCode = error instanceof FreerunError ? 2 : 1;
}
