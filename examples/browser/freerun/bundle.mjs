/** An exported bundle: config.json, vocabularies and graphs, read from anywhere and validated. */

import { Codec } from "./codec.mjs";
import { BundleError, SourceError } from "./errors.mjs";
import { FeatureCodec } from "./features.mjs";
import { firstFault } from "./schema.mjs";
import { strip } from "./text.mjs";
import { FIRST_ID } from "./vocabulary.mjs";

const FORMAT = "freerun bundle";
const VERSION = 1;
const VOCABULARY_VERSION = 1;
/** The largest length bound, MAX_LENGTH of freerun/bounds.py. */
const MAX_LENGTH = 2 ** 16;
/** Number of known features that an error names. */
const MAX_NAMED = 8;
const SIDES = ["source", "target"];
const AGAIN = "Copy the complete bundle again";
const EXPORT = "Export it: freerun export MODEL";

export class Bundle {
  /** @param {(name: string) => Promise<Uint8Array>} read gives a file of the bundle, or throws a `BundleError` */
  static async open(read) {
    const bundle = new Bundle();
    bundle.read = read;
    bundle.config = checkedConfig(parsed("config.json", await read("config.json")));
    [bundle.source, bundle.target] = await Promise.all(SIDES.map((side) => bundle.codec(side)));
    bundle.features = await bundle.featureCodec();
    return bundle;
  }

  /**
   * Return a source as the model reads it.
   *
   * @param {string} text
   * @param {string | string[] | null} [features] with separators, or one feature each; "" if the source has none
   * @returns {{tokens: string[], ids: number[], features: number[] | null}} the tokens, and the ids of both fields;
   *   null if the model reads no features
   */
  encode(text, features = null) {
    checkFeatures(this.features, text, features);
    const tokens = this.source.tokens(text);
    return { tokens, ids: this.source.encode(tokens), features: this.features?.encode(features) ?? null };
  }

  /** Return the precisions in which the bundle has all of these graphs. */
  precisions(...graphs) {
    const { files } = this.config;
    return ["fp32", "int8"].filter((each) => graphs.every((graph) => Object.hasOwn(files, graphFile(graph, each))));
  }

  /** Return the maximum output length for a number of source tokens, both without EOS. */
  lengthBound(sourceTokens) {
    const { longest_target: longest, largest_ratio: ratio, fixed } = this.config.length_bound;
    return Math.min(fixed ?? Math.max(3 * longest, Math.ceil(2 * ratio * sourceTokens)) + 10, MAX_LENGTH);
  }

  /** Return a graph's bytes. */
  async graph(name, precision = "fp32") {
    if (!this.precisions(name).includes(precision)) {
      const file = graphFile(name, precision);
      throw new BundleError("bundle", `it has no ${file}`, "Expected an exported bundle", exportOf(precision));
    }
    return this.checked(graphFile(name, precision));
  }

  async codec(side) {
    return new Codec(this.config[side], await this.vocabulary(side));
  }

  /** Return the codec of the features, null if the model reads none. */
  async featureCodec() {
    const { features } = this.config;
    return features ? new FeatureCodec(features.separator, await this.vocabulary("feature")) : null;
  }

  /** Return the tokens of a vocabulary file. */
  async vocabulary(name) {
    const file = `${name}_vocabulary.json`;
    const tokens = tokensIn(file, parsed(file, await this.checked(file)));
    const [size, expected] = [FIRST_ID + tokens.length, this.config.model[`${name}_vocabulary`]];
    if (size !== expected) {
      const what = `damaged: model.${name}_vocabulary: it is ${expected}, and the ${name} vocabulary has ${size} ids`;
      throw new BundleError("config.json", what, "Expected the dimensions of this bundle's model", AGAIN);
    }
    return tokens;
  }

  /** Return a file's bytes, compared with the hash in config.json where the browser supports it (https, localhost). */
  async checked(name) {
    const bytes = await this.read(name);
    const { subtle } = globalThis.crypto ?? {};
    if (subtle && hexadecimal(await subtle.digest("SHA-256", bytes)) !== this.config.files[name]) {
      throw new BundleError(name, "its SHA-256 is not the one in config.json", "Expected the bundle's own file", AGAIN);
    }
    return bytes;
  }
}

/** Check that there are features exactly if the model reads them, one in each item of an array. */
function checkFeatures(codec, text, features) {
  const where = JSON.stringify(text.slice(0, 80));
  if (codec === null && features !== null) {
    const what = "it has features, but the model was trained without any";
    throw new SourceError(where, what, "Expected a text alone", "Leave the features out");
  }
  if (codec !== null && features === null) {
    const why = "because the model was trained with them";
    const expected = `Expected features separated by ${JSON.stringify(codec.separator)}, ${why}; it has ${named(codec)}`;
    throw new SourceError(where, "it has no features", expected, 'Add the features; "" stands for none');
  }
  const joined = Array.isArray(features) && features.find((each) => strip(each).includes(codec.separator));
  if (joined) {
    const what = `the feature ${JSON.stringify(joined)} contains the separator ${JSON.stringify(codec.separator)}`;
    throw new SourceError(where, what, "Expected one feature in each item", "Pass one string with all features");
  }
}

/** Return the first features of a model as text. */
function named({ vocabulary: { tokens } }) {
  const first = tokens.slice(0, MAX_NAMED).map((token) => JSON.stringify(token)).join(", ") || "none";
  const others = tokens.length - MAX_NAMED;
  return others > 0 ? `${first} and ${others} ${others > 1 ? "others" : "other"}` : first;
}

function graphFile(name, precision) {
  return precision === "fp32" ? `${name}.onnx` : `${name}.${precision}.onnx`;
}

function exportOf(precision) {
  return precision === "fp32" ? EXPORT : `${EXPORT} --quantize ${precision}`;
}

function parsed(name, bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), strict);
  } catch (error) {
    const what = error instanceof RangeError ? `damaged: ${error.message}` : "it is not JSON";
    throw new BundleError(name, what, "Expected a file of an exported bundle", AGAIN);
  }
}

/** Return the value of a JSON file; like freerun/strict_json.py, stricter than JSON. */
function strict(key, value) {
  for (const text of [key, value]) {
    if (/\p{Surrogate}/u.test(text)) throw new RangeError(`the string ${JSON.stringify(text)} has half a surrogate pair`);
  }
  if (typeof value === "number" && !Number.isFinite(value)) throw new RangeError("a number is too large");
  return value;
}

function checkedConfig(config) {
  const where = "config.json";
  if (config?.format !== FORMAT) {
    throw new BundleError(where, "it is not of a freerun bundle", `Expected the format "${FORMAT}"`, AGAIN);
  }
  checkVersion(where, "bundle", config.version, VERSION);
  const fault = firstFault(config);
  if (fault) {
    throw new BundleError(where, `damaged: ${fault.key}: ${shown(config, fault.key)}`, `Expected ${fault.expected}`, AGAIN);
  }
  for (const side of SIDES) {
    if (config[side].tokens.startsWith("sentencepiece")) {
      const what = `the ${side} has "${config[side].tokens}" tokens, which this example cannot make`;
      throw new BundleError(where, what, 'Expected "char" or "whitespace"', "Train a model with such tokens");
    }
  }
  return config;
}

/** Check for a whole number from 1 to the newest known version. */
function checkVersion(where, what, version, newest) {
  if (!Number.isSafeInteger(version) || version < 1) {
    throw new BundleError(where, `damaged: its version is ${JSON.stringify(version)}`, "Expected a whole number", AGAIN);
  }
  if (version > newest) {
    const expected = `Expected at most version ${newest}, the newest that this example reads`;
    throw new BundleError(where, `this ${what} has version ${version}`, expected, "Use a newer version of this example");
  }
}

/** Return the value at a key path as text. */
function shown(config, key) {
  const value = key.split(".").reduce((section, name) => section?.[name], config);
  return value === undefined ? "this key is missing" : `the value is ${JSON.stringify(value).slice(0, 80)}`;
}

function tokensIn(name, content) {
  const damaged = (what) => new BundleError(name, `damaged: ${what}`, "Expected a vocabulary as freerun writes it", AGAIN);
  if (typeof content !== "object" || content === null || Array.isArray(content)) throw damaged("it is not a JSON object");
  checkVersion(name, "vocabulary", content.version, VOCABULARY_VERSION);
  if (!Array.isArray(content.tokens)) throw damaged("it has no list of tokens");
  const known = new Set();
  for (const token of content.tokens) {
    if (typeof token !== "string") throw damaged(`the token ${JSON.stringify(token)} is not a string`);
    if (known.has(token)) throw damaged(`the token ${JSON.stringify(token)} occurs twice`);
    known.add(token);
  }
  return content.tokens;
}

function hexadecimal(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
