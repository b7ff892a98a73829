/** An exported bundle: config.json, vocabularies and graphs, read from anywhere and checked. */

import { Codec } from "./codec.mjs";
import { BundleError } from "./errors.mjs";

const FORMAT = "freerun bundle";
const VERSION = 1;
const VOCABULARY_VERSION = 1;
const SIDES = ["source", "target"];
const AGAIN = "Copy the whole bundle again";
const EXPORT = "Export it: freerun export MODEL";

export class Bundle {
  /** @param {(name: string) => Promise<Uint8Array>} read gives a file of the bundle, or throws a `BundleError` */
  static async open(read) {
    const bundle = new Bundle();
    bundle.read = read;
    bundle.config = checkedConfig(parsed("config.json", await read("config.json")));
    [bundle.source, bundle.target] = await Promise.all(SIDES.map((side) => bundle.codec(side)));
    return bundle;
  }

  /** The precisions in which the bundle has all of these graphs. */
  precisions(...graphs) {
    return ["fp32", "int8"].filter((each) => graphs.every((graph) => graphFile(graph, each) in this.config.files));
  }

  /** Most tokens to write for a source of so many tokens, EOS counted in neither. */
  lengthBound(sourceTokens) {
    const { longest_target: longest, largest_ratio: ratio, fixed } = this.config.length_bound;
    return fixed ?? Math.max(3 * longest, Math.ceil(2 * ratio * sourceTokens)) + 10;
  }

  /** A graph's bytes. */
  async graph(name, precision = "fp32") {
    if (!this.precisions(name).includes(precision)) {
      const file = graphFile(name, precision);
      throw new BundleError("bundle", `it has no ${file}`, "Expected an exported bundle", exportOf(precision));
    }
    return this.checked(graphFile(name, precision));
  }

  async codec(side) {
    const name = `${side}_vocabulary.json`;
    return new Codec(this.config[side], tokensIn(name, parsed(name, await this.checked(name))));
  }

  /** A file's bytes, compared with the hash in config.json where the browser allows it (https and this machine). */
  async checked(name) {
    const bytes = await this.read(name);
    const { subtle } = globalThis.crypto ?? {};
    if (subtle && hexadecimal(await subtle.digest("SHA-256", bytes)) !== this.config.files[name]) {
      throw new BundleError(name, "its SHA-256 is not the one in config.json", "Expected the bundle's own file", AGAIN);
    }
    return bytes;
  }
}

function graphFile(name, precision) {
  return precision === "fp32" ? `${name}.onnx` : `${name}.${precision}.onnx`;
}

function exportOf(precision) {
  return precision === "fp32" ? EXPORT : `${EXPORT} --quantize ${precision}`;
}

function parsed(name, bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new BundleError(name, "it is not JSON", "Expected a file of an exported bundle", AGAIN);
  }
}

function checkedConfig(config) {
  const where = "config.json";
  if (config?.format !== FORMAT) {
    throw new BundleError(where, "it is not of a freerun bundle", `Expected the format "${FORMAT}"`, AGAIN);
  }
  if (!(config.version <= VERSION)) {
    const expected = `Expected version ${VERSION} at most, the newest that this example knows`;
    throw new BundleError(where, `this bundle has version ${config.version}`, expected, "Take the newer example");
  }
  for (const side of SIDES) {
    if (!["char", "whitespace"].includes(config[side]?.tokens)) {
      const what = `the ${side} has "${config[side]?.tokens}" tokens, which this example cannot make`;
      throw new BundleError(where, what, 'Expected "char" or "whitespace"', "Train a model with such tokens");
    }
  }
  if (!config.files || !config.length_bound) {
    throw new BundleError(where, "it is damaged", "Expected files and length_bound in it", AGAIN);
  }
  return config;
}

function tokensIn(name, content) {
  if (!(content?.version <= VOCABULARY_VERSION) || !Array.isArray(content.tokens)) {
    const expected = `Expected a list of tokens, version ${VOCABULARY_VERSION}`;
    throw new BundleError(name, "it is not a vocabulary that this example knows", expected, AGAIN);
  }
  return content.tokens;
}

function hexadecimal(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
