/** Text to tokens and back, like freerun's normalization and tokenizers. */

// The whitespace of Python's str.split(). \s differs: it lacks U+001C to U+001F and U+0085, and has U+FEFF.
const SPACES = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WHITE_SPACE = new RegExp(`[${SPACES}]+`, "u");
const WITHOUT_ENDS = new RegExp(`[^${SPACES}](?:.*[^${SPACES}])?`, "su");

/** Return `text` in a Unicode form ("NFC", "NFD", "NFKC", "NFKD", "none"), lower-cased if `wordCase` is "lower". */
export function normalise(text, form, wordCase) {
  const normal = inForm(text, form);
  // lower-casing can break the form (a capital may become a letter and a combining accent), so normalize again
  return wordCase === "lower" ? inForm(normal.toLowerCase(), form) : normal;
}

function inForm(text, form) {
  return form === "none" ? text : text.normalize(form);
}

/** Return the tokens of a normalized text; `kind` is "char" (code points, not UTF-16 units) or "whitespace". */
export function tokensOf(text, kind) {
  return kind === "char" ? Array.from(text) : text.split(WHITE_SPACE).filter((token) => token !== "");
}

/** Return the separator between the tokens of a text. */
export function separatorOf(kind) {
  return kind === "char" ? "" : " ";
}

/** Return a text without surrounding whitespace, like Python's str.strip(). */
export function strip(text) {
  return text.match(WITHOUT_ENDS)?.[0] ?? "";
}
