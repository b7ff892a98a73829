/** From text to tokens and back, as freerun/data/normalisation.py and freerun/data/tokenizers.py do it. */

// What Python's str.split() takes for white space. \s is not that: it lacks U+001C to U+001F and U+0085, and has U+FEFF.
const WHITE_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

/** `text` in a Unicode form ("NFC", "NFD", "NFKC", "NFKD", "none") and, if `wordCase` is "lower", in lower case. */
export function normalise(text, form, wordCase) {
  const normal = inForm(text, form);
  // lowering can leave the form (one capital may become a letter and a loose accent), so it is made again
  return wordCase === "lower" ? inForm(normal.toLowerCase(), form) : normal;
}

function inForm(text, form) {
  return form === "none" ? text : text.normalize(form);
}

/** The tokens of a normalised text; `kind` is "char" (code points, not UTF-16 units) or "whitespace". */
export function tokensOf(text, kind) {
  return kind === "char" ? Array.from(text) : text.split(WHITE_SPACE).filter((token) => token !== "");
}

/** What stands between two tokens of a text. */
export function separatorOf(kind) {
  return kind === "char" ? "" : " ";
}
