/** The page: loads the bundle next to it, and predicts as you type. */

import * as ort from "../ort/ort.mjs";

import { Bundle } from "../freerun/bundle.mjs";
import { BundleError } from "../freerun/errors.mjs";
import { openBeam } from "../freerun/model.mjs";
import { at, button, element } from "../shared/elements.mjs";
import { english as say } from "../shared/english.mjs";
import { outputItems, percent } from "../shared/outputs.mjs";
import {
  caseThatHelps,
  describeFeatures,
  describeModel,
  describeUnknown,
  describeUnknownFeatures,
  inCase,
} from "../shared/words.mjs";
import { read, readExamples } from "./files.mjs";
import { Latest } from "./latest.mjs";

const BEAM_SIZE = 5;
/** Milliseconds without a key press before a prediction starts. */
const DEBOUNCE = 100;
/** Longer sources take too long in a page. */
const MAX_TOKENS = 1000;
/** Offered if the build has no examples and the model has their tokens in its vocabulary. */
const COMMON_EXAMPLES = ["phonology", "PHONOLOGY", "sequence", "SEQUENCE", "free running"];

const latest = new Latest();
const models = new Map(); // by precision
let bundle;
let timer;

start().catch(showError);

async function start() {
  ort.env.wasm.numThreads = 1; // more threads require cross-origin isolation, which a plain static server does not provide
  ort.env.wasm.wasmPaths = { wasm: new URL("../ort/ort.wasm", import.meta.url).href };
  bundle = await Bundle.open(read);
  await modelOf("fp32");
  at("model").textContent = describeModel(bundle.config, say);
  at("precision-choice").hidden = !bundle.precisions("encoder", "step").includes("int8");
  if (bundle.features) showFeatures(bundle.features);
  showExamples(await readExamples());
  at("source").addEventListener("input", later);
  at("features").addEventListener("input", later);
  at("form").addEventListener("submit", now);
  at("precision").addEventListener("change", now);
  at("numbers").addEventListener("change", () => at("outputs").classList.toggle("numbers", at("numbers").checked));
  at("source").disabled = false;
  at("source").focus();
}

/** The graphs of a precision are fetched when they are first needed. */
async function modelOf(precision) {
  if (!models.has(precision)) models.set(precision, await openBeam(ort, bundle, precision));
  return models.get(precision);
}

function precision() {
  return at("precision").value;
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(() => predict().catch(showError), DEBOUNCE);
}

function now(event) {
  event.preventDefault();
  clearTimeout(timer);
  predict().catch(showError);
}

async function predict() {
  const text = at("source").value;
  const features = bundle.features ? at("features").value : null;
  const tokens = bundle.source.tokens(text);
  at("error").replaceChildren();
  at("note").replaceChildren(...notes(text, tokens), ...featureNotes(features));
  at("results").classList.add("waiting");
  if (text === "" || tokens.length > MAX_TOKENS) {
    latest.stop();
    at("results").hidden = true;
    return;
  }
  const began = performance.now();
  const found = await latest.run(async (pause) => (await modelOf(precision()))(text, features, BEAM_SIZE, pause));
  if (found) show({ text, features }, found, performance.now() - began);
}

function show({ text, features }, hypotheses, milliseconds) {
  at("results").hidden = false;
  at("results").classList.remove("waiting");
  Object.assign(at("outputs").dataset, { source: text, features: features ?? "" });
  at("outputs").replaceChildren(...outputItems(hypotheses, bundle.target.separator, say));
  at("time").textContent = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms in this browser`;
  const [best] = hypotheses;
  at("announcement").textContent = say.bestOutput(best.text, percent(Math.exp(best.score)));
}

/** Return notes about the text. */
function notes(text, tokens) {
  if (tokens.length > MAX_TOKENS) {
    const [has, most] = [tokens.length, MAX_TOKENS].map((count) => count.toLocaleString("en"));
    return [`The text has ${has} tokens, and this page accepts at most ${most}. Split it into shorter texts.`];
  }
  const unknown = bundle.source.unknown(tokens);
  if (unknown.length === 0) return [];
  const helpful = caseThatHelps(unknown, isKnown);
  const fix = helpful ? [chooser(say.writeInCase(helpful), inCase(text, helpful))] : [];
  return [describeUnknown(unknown, say), ...fix];
}

function isKnown(text) {
  return bundle.source.unknown(bundle.source.tokens(text)).length === 0;
}

/** Return notes about the features, null for a model without. */
function featureNotes(features) {
  const unknown = features ? bundle.features.unknown(features) : [];
  return unknown.length > 0 ? [element("div", "", describeUnknownFeatures(unknown, say))] : [];
}

/** Show the second field. */
function showFeatures(codec) {
  at("features-field").hidden = false;
  at("known-features").textContent = describeFeatures({ separator: codec.separator, tokens: codec.vocabulary.tokens }, say);
}

/** Show example lines to click: a source, or a source, a tab and its features. */
function showExamples(given) {
  const readable = COMMON_EXAMPLES.filter(isKnown);
  const texts = given.length > 0 ? given : readable;
  at("examples").append(...texts.map((text) => chooser(text.replace("\t", " "), text)));
  at("examples").hidden = texts.length === 0;
}

/** Return a button that puts a source into its field, and the features after a tab, if any, into theirs. */
function chooser(label, line) {
  const [text, features] = line.split("\t");
  return button(label, () => {
    at("source").value = text;
    if (features !== undefined) at("features").value = features;
    at("source").focus();
    predict().catch(showError);
  });
}

function showError(error) {
  if (!(error instanceof BundleError)) console.error(error);
  if (models.size === 0) at("model").textContent = "No model";
  else if (!models.has(precision())) at("precision").value = "fp32"; // the available one
  at("results").hidden = true;
  at("error").textContent = error.message;
}
