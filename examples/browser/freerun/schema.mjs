/** Schema of a bundle's config.json, the same as in freerun/runtime/schema.py. */

import { FIRST_ID } from "./vocabulary.mjs";

const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const whole = (least, most = Number.MAX_SAFE_INTEGER) => [
  (value) => Number.isSafeInteger(value) && value >= least && value <= most,
  `a whole number, ${least} or more`,
];
const word = (...words) => [(value) => words.includes(value), `one of "${words.join('", "')}"`];
const optional = ([fits, expected]) => [(value) => value === undefined || value === null || fits(value), expected];

const TRUTH = [(value) => typeof value === "boolean", "true or false"];
const STRING = [(value) => typeof value === "string", "a string"];
const NUMBER = [(value) => Number.isFinite(value) && value >= 0, "a number, 0 or more"];
const TABLE = [isTable, "a table"];
const STRINGS = [(value) => isTable(value) && Object.values(value).every(STRING[0]), "a table of strings"];
const TOKENS = [
  (value) => typeof value === "string" && /^(char|whitespace|sentencepiece:[0-9]{1,9})$/.test(value),
  '"char", "whitespace" or "sentencepiece:N"',
];

const SIDE = {
  tokens: TOKENS,
  normalisation: word("NFC", "NFD", "NFKC", "NFKD", "none"),
  case: word("keep", "lower"),
  reverse: TRUTH,
};
const CONFIG = {
  source: SIDE,
  target: { ...SIDE, written: optional(word("NFC", "NFD", "NFKC", "NFKD", "none")) },
  model: {
    source_vocabulary: whole(1),
    target_vocabulary: whole(1),
    embedding_size: whole(1),
    hidden_size: whole(1),
    num_layers: whole(1, 1000),
    cell: word("lstm", "gru", "rnn", "mingru"),
    bidirectional: TRUTH,
    context: word("init", "every_step"),
    attention: word("none", "dot", "general", "scaled_general", "concat", "bahdanau"),
    tied_output: TRUTH,
    input_feeding: optional(TRUTH),
  },
  length_bound: { longest_target: whole(0), largest_ratio: NUMBER, fixed: optional(whole(0)) },
  most_frequent_target: STRING,
  training: TABLE,
  files: STRINGS,
  graphs: optional(STRINGS),
};

const MAX_SEPARATOR = 8;
const SEPARATOR = [
  (value) => typeof value === "string" && value !== "" && Array.from(value).length <= MAX_SEPARATOR,
  `a text of 1 to ${MAX_SEPARATOR} characters`,
];
/** The further keys of a model with features: all of them or none. */
const FEATURES = {
  model: { feature_vocabulary: whole(FIRST_ID), feature_encoder: word("summary", "sequence", "both") },
  features: { separator: SEPARATOR },
};

/**
 * Return the first invalid value: its key path and what is expected there; null if there is none.
 *
 * @returns {{key: string, expected: string} | null}
 */
export function firstFault(config) {
  return faultIn(config, CONFIG) ?? (mentionsFeatures(config) ? featureFault(config) : null);
}

function mentionsFeatures({ model, features }) {
  const { feature_vocabulary: size = 0, feature_encoder: encoder = "" } = model;
  return size !== 0 || encoder !== "" || (features ?? null) !== null;
}

function featureFault(config) {
  const fault = faultIn(config, FEATURES);
  if (fault || config.model.feature_encoder === "summary" || config.model.attention !== "none") return fault;
  return { key: "model.feature_encoder", expected: '"summary", because there is no attention to read a sequence' };
}

function faultIn(config, section, prefix = "") {
  for (const [name, expected] of Object.entries(section)) {
    const [key, value] = [prefix + name, Object.hasOwn(config, name) ? config[name] : undefined];
    if (!Array.isArray(expected)) {
      const fault = isTable(value) ? faultIn(value, expected, `${key}.`) : { key, expected: `a section, [${key}]` };
      if (fault) return fault;
    } else if (!expected[0](value)) {
      return { key, expected: expected[1] };
    }
  }
  return null;
}
