/** What the page says, in words. */

const MOST_NAMED = 8;

/** What kind of model this is. */
export function describeModel({ model, source, target }) {
  const layers = model.num_layers === 1 ? "1 layer" : `${model.num_layers} layers`;
  const attention = model.attention === "none" ? "" : `, ${model.attention} attention`;
  const kinds = [source, target].map((side) => (side.tokens === "char" ? "characters" : "words"));
  return `${model.cell.toUpperCase()}, ${layers} of ${model.hidden_size} units${attention}: ${kinds[0]} to ${kinds[1]}`;
}

/** About source tokens that the model has never seen. */
export function describeUnknown(tokens) {
  const named = tokens.slice(0, MOST_NAMED).map((token) => `“${visible(token)}”`).join(", ");
  const more = tokens.length > MOST_NAMED ? ` and ${tokens.length - MOST_NAMED} others` : "";
  return `The model has never seen ${named}${more} and reads that as unknown.`;
}

/** "lower" or "upper" where every unknown token is known in that case, as `freerun predict` says it; else "". */
export function caseThatHelps(codec, tokens) {
  const known = (text) => text !== "" && codec.unknown(codec.tokens(text)).length === 0;
  if (tokens.every((token) => known(token.toLowerCase()))) return "lower";
  return tokens.every((token) => known(token.toUpperCase())) ? "upper" : "";
}

/** `text` in a case that `caseThatHelps` gave. */
export function inCase(text, name) {
  return name === "lower" ? text.toLowerCase() : text.toUpperCase();
}

// what takes no place of its own on the screen, or looks like a space
const UNSEEN = /[\p{C}\p{Z}\p{M}]/gu;

function visible(token) {
  return token.replace(UNSEEN, (each) => `U+${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
}
