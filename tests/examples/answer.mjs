/** Answers the questions of test_javascript.py: JSON from standard input, JSON to standard output. */

import { readFileSync } from "node:fs";

import { beamSearch } from "../../examples/browser/freerun/beam.mjs";
import { Bundle } from "../../examples/browser/freerun/bundle.mjs";
import { Codec } from "../../examples/browser/freerun/codec.mjs";
import { FeatureCodec } from "../../examples/browser/freerun/features.mjs";

/** tests/steppers.py, TableStepper. */
class TableStepper {
  constructor(table, start) {
    Object.assign(this, { table, states: [start], writable: table[0].length - 3, rowsFed: [] });
  }

  async step(tokens, origins, width) {
    this.rowsFed.push(tokens.length);
    this.states = tokens.map((token, n) => (this.states[origins[n]] * 31 + token + 7) % 1_000_003);
    const rows = this.states.map((state) => best(this.table[state % this.table.length], width));
    return { ids: rows.flat(), logProbs: this.states.flatMap((state, n) => rows[n].map((id) => this.row(state)[id])) };
  }

  row(state) {
    return this.table[state % this.table.length];
  }
}

function best(row, width) {
  const ids = [...row.keys()].filter((id) => ![0, 1, 3].includes(id));
  return ids.sort((a, b) => row[b] - row[a] || a - b).slice(0, width);
}

const answer = {
  beam: async ({ table, start, beamSize, bound }) => {
    const stepper = new TableStepper(table, start);
    return { found: await beamSearch(stepper, beamSize, bound), rowsFed: stepper.rowsFed };
  },
  encode: ({ settings, vocabulary, text }) => {
    const codec = new Codec(settings, vocabulary);
    const tokens = codec.tokens(text);
    return { tokens, ids: codec.encode(tokens), unknown: codec.unknown(tokens) };
  },
  features: ({ separator, vocabulary, features }) => {
    const codec = new FeatureCodec(separator, vocabulary);
    return { tokens: codec.tokens(features), ids: codec.encode(features), unknown: codec.unknown(features) };
  },
  decode: ({ settings, vocabulary, ids }) => {
    const codec = new Codec(settings, vocabulary);
    return codec.text(codec.decode(ids));
  },
  // the message of what is wrong, or null
  open: ({ files }) => Bundle.open(async (name) => Buffer.from(files[name], "base64")).then(() => null, (error) => `${error}`),
  bound: ({ bound, length }) => Object.assign(new Bundle(), { config: { length_bound: bound } }).lengthBound(length),
};

const questions = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(questions.map(({ kind, ...rest }) => answer[kind](rest)))));
