/** The texts of the page. */

const MOST_NAMED = 8;
const MOST_FEATURES = 20;

/** Describe the kind of model. */
export function describeModel({ model, source, target, features }) {
  const layers = model.num_layers === 1 ? "1 layer" : `${model.num_layers} layers`;
  const attention = model.attention === "none" ? "" : `, ${model.attention} attention`;
  const kinds = [source, target].map((side) => (side.tokens === "char" ? "characters" : "words"));
  const read = features ? `${kinds[0]} and features` : kinds[0];
  return `${model.cell.toUpperCase()}, ${layers} of ${model.hidden_size} units${attention}: ${read} to ${kinds[1]}`;
}

/** Describe source tokens that are not in the vocabulary. */
export function describeUnknown(tokens) {
  return `${listed(tokens)}: not in the model’s vocabulary, so mapped to UNK.`;
}

/** Describe features that are not in their vocabulary. */
export function describeUnknownFeatures(tokens) {
  return `${listed(tokens)}: not among the model’s features, so mapped to UNK.`;
}

/** Describe the features that a model reads, most frequent first. */
export function describeFeatures({ separator, vocabulary }) {
  const between = separator === " " ? "spaces" : `“${visible(separator)}”`;
  return `Separated by ${between}. Known: ${listed(vocabulary.tokens, MOST_FEATURES) || "none"}.`;
}

function listed(tokens, most = MOST_NAMED) {
  const named = tokens.slice(0, most).map((token) => `“${visible(token)}”`).join(", ");
  const others = tokens.length - most;
  return others > 0 ? `${named} and ${others} ${others > 1 ? "others" : "other"}` : named;
}

/** Return "lower" or "upper" if all unknown tokens are in the vocabulary in that case, like `freerun predict`; else "". */
export function caseThatHelps(codec, tokens) {
  const known = (text) => text !== "" && codec.unknown(codec.tokens(text)).length === 0;
  if (tokens.every((token) => known(token.toLowerCase()))) return "lower";
  return tokens.every((token) => known(token.toUpperCase())) ? "upper" : "";
}

/** Return `text` in a case that `caseThatHelps` returned. */
export function inCase(text, name) {
  return name === "lower" ? text.toLowerCase() : text.toUpperCase();
}

// characters that are invisible or look like a space
const UNSEEN = /[\p{C}\p{Z}\p{M}]/gu;

function visible(token) {
  return token.replace(UNSEEN, (each) => `U+${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
}
