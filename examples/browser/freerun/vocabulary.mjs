/** The vocabulary: tokens to ids, and the special ids. */

export const PAD = 0;
export const BOS = 1;
export const EOS = 2;
export const UNK = 3;

/** The first token of a vocabulary has this id. */
export const FIRST_ID = 4;

export class Vocabulary {
  #ids;

  /** @param {string[]} tokens in the order of their ids */
  constructor(tokens) {
    this.tokens = tokens;
    // a Map instead of an object: "__proto__" is a token like any other
    this.#ids = new Map(tokens.map((token, place) => [token, FIRST_ID + place]));
  }

  /** Number of ids, including the special ones. */
  get size() {
    return FIRST_ID + this.tokens.length;
  }

  /** Return the ids of tokens; UNK for those that are not in the vocabulary. */
  encode(tokens) {
    return tokens.map((token) => this.#ids.get(token) ?? UNK);
  }

  /** Return the distinct tokens that are not in the vocabulary. */
  unknown(tokens) {
    return [...new Set(tokens.filter((token) => !this.#ids.has(token)))];
  }
}
