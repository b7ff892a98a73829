/** Text to ids and back for one side of a model. */

import { BundleError } from "./errors.mjs";
import { normalise, separatorOf, tokensOf } from "./text.mjs";
import { EOS, FIRST_ID, Vocabulary } from "./vocabulary.mjs";

export class Codec {
  /**
   * @param {{tokens: string, normalisation: string, case: string, reverse: boolean, written?: string}} settings a side
   *   of config.json
   * @param {string[]} tokens all known tokens in the order of their ids
   */
  constructor(settings, tokens) {
    this.settings = settings;
    this.separator = separatorOf(settings.tokens);
    this.vocabulary = new Vocabulary(tokens);
  }

  /** Return the tokens of a text in reading order. */
  tokens(text) {
    return tokensOf(normalise(text, this.settings.normalisation, this.settings.case), this.settings.tokens);
  }

  /** Return the ids of tokens in reading order, EOS last; UNK for tokens that are not in the vocabulary. */
  encode(tokens) {
    const ids = this.vocabulary.encode(tokens);
    if (this.settings.reverse) ids.reverse();
    return [...ids, EOS];
  }

  /** Return the distinct tokens that are not in the vocabulary. */
  unknown(tokens) {
    return this.vocabulary.unknown(tokens);
  }

  /** Return the tokens of output ids without EOS. */
  decode(ids) {
    const { size, tokens } = this.vocabulary;
    return ids.map((id) => {
      if (id >= FIRST_ID && id < size) return tokens[id - FIRST_ID];
      const what = `the model wrote the id ${id}`;
      throw new BundleError("bundle", what, `Expected ids from ${FIRST_ID} to ${size - 1}`, "Export it again");
    });
  }

  /** Return the text of tokens. */
  text(tokens) {
    return normalise(tokens.join(this.separator), this.settings.written ?? "none", "keep");
  }
}
