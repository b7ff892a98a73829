/** Sentences about a model and its input, in the language of a dictionary (english.mjs, korean.mjs). */

import { visible } from "./outputs.mjs";

const MAX_NAMED = 8;
const MAX_FEATURES = 20;
/** Kinds of attention that are named after a person. */
const PERSONS = { bahdanau: "Bahdanau", luong: "Luong" };

/** Describe the kind of model. */
export function describeModel({ model, source, target, features }, say) {
  const kind = PERSONS[model.attention] ?? model.attention;
  const attention = kind === "none" ? "" : say.withAttention(kind);
  const [read, written] = [source, target].map((side) => say.tokenKind(side.tokens));
  const layers = say.layers(model.num_layers, model.hidden_size);
  return `${model.cell.toUpperCase()}, ${layers}${attention}: ${say.mapping(read, features != null, written)}`;
}

/** Describe source tokens that are not in the vocabulary. */
export function describeUnknown(tokens, say) {
  return say.unknown(listed(tokens, MAX_NAMED, say));
}

/** Describe features that are not in their vocabulary. */
export function describeUnknownFeatures(tokens, say) {
  return say.unknownFeatures(listed(tokens, MAX_NAMED, say));
}

/** Describe the features that a model reads, most frequent first; `total` counts them if not all are in `tokens`. */
export function describeFeatures({ separator, tokens, total = tokens.length }, say) {
  const between = separator === " " ? say.spaces : `“${visible(separator)}”`;
  return say.features(between, listed(tokens, MAX_FEATURES, say, total) || say.none);
}

function listed(tokens, limit, say, total = tokens.length) {
  const named = tokens.slice(0, limit).map((token) => `“${visible(token)}”`).join(", ");
  const others = total - Math.min(limit, tokens.length);
  return others > 0 && named ? say.andOthers(named, others) : named;
}

/**
 * Return "lower" or "upper" if all unknown tokens are in the vocabulary in that case, like `freerun predict`; else "".
 *
 * @param {string[]} tokens
 * @param {(text: string) => boolean} isKnown True if the vocabulary has all tokens of a text
 */
export function caseThatHelps(tokens, isKnown) {
  const known = (text) => text !== "" && isKnown(text);
  if (tokens.every((token) => known(token.toLowerCase()))) return "lower";
  return tokens.every((token) => known(token.toUpperCase())) ? "upper" : "";
}

/** Return `text` in a case that `caseThatHelps` returned. */
export function inCase(text, name) {
  return name === "lower" ? text.toLowerCase() : text.toUpperCase();
}
