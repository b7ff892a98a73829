/** Text to ids and back for one side of a model. */

import { BundleError } from "./errors.mjs";
import { normalise, separatorOf, tokensOf } from "./text.mjs";

export const PAD = 0;
export const BOS = 1;
export const EOS = 2;
export const UNK = 3;

/** The first token of a vocabulary has this id. */
const FIRST_ID = 4;

export class Codec {
  /**
   * @param {{tokens: string, normalisation: string, case: string, reverse: boolean}} settings a side of config.json
   * @param {string[]} vocabulary the tokens in the order of their ids
   */
  constructor(settings, vocabulary) {
    this.settings = settings;
    this.separator = separatorOf(settings.tokens);
    this.vocabulary = vocabulary;
    // a Map instead of an object: "__proto__" is a token like any other
    this.ids = new Map(vocabulary.map((token, place) => [token, FIRST_ID + place]));
  }

  /** Number of ids, including the special ones. */
  get size() {
    return FIRST_ID + this.vocabulary.length;
  }

  /** Return the tokens of a text in reading order. */
  tokens(text) {
    return tokensOf(normalise(text, this.settings.normalisation, this.settings.case), this.settings.tokens);
  }

  /** Return the ids of tokens in reading order, EOS last; UNK for tokens that are not in the vocabulary. */
  encode(tokens) {
    const ids = tokens.map((token) => this.ids.get(token) ?? UNK);
    if (this.settings.reverse) ids.reverse();
    return [...ids, EOS];
  }

  /** Return the distinct tokens that are not in the vocabulary. */
  unknown(tokens) {
    return [...new Set(tokens.filter((token) => !this.ids.has(token)))];
  }

  /** Return the tokens of output ids without EOS. */
  decode(ids) {
    return ids.map((id) => {
      if (id >= FIRST_ID && id < this.size) return this.vocabulary[id - FIRST_ID];
      const what = `the model wrote the id ${id}`;
      throw new BundleError("bundle", what, `Expected ids from ${FIRST_ID} to ${this.size - 1}`, "Export it again");
    });
  }

  /** Return the text of tokens. */
  text(tokens) {
    return tokens.join(this.separator);
  }
}
