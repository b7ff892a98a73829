/** A source's features, such as "V;PST": whole tokens with a vocabulary of their own, like freerun/data/features.py. */

import { strip } from "./text.mjs";
import { Vocabulary } from "./vocabulary.mjs";

export class FeatureCodec {
  /**
   * @param {string} separator the text between two features
   * @param {string[]} tokens all known features in the order of their ids
   */
  constructor(separator, tokens) {
    this.separator = separator;
    this.vocabulary = new Vocabulary(tokens);
  }

  /**
   * Return the distinct features in reading order, in NFC, without surrounding whitespace.
   *
   * @param {string | string[]} features with separators, or one feature each
   */
  tokens(features) {
    const parts = typeof features === "string" ? features.split(this.separator) : features;
    const tokens = parts.map((part) => strip(part.normalize("NFC")));
    return [...new Set(tokens.filter((token) => token !== ""))];
  }

  /** Return the ids of the features in ascending order; UNK once for all that are not in the vocabulary. */
  encode(features) {
    return [...new Set(this.vocabulary.encode(this.tokens(features)))].sort((a, b) => a - b);
  }

  /** Return the features that are not in the vocabulary. */
  unknown(features) {
    return this.vocabulary.unknown(this.tokens(features));
  }
}
