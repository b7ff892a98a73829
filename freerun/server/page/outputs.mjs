/** Outputs as elements. Text from the model or the user is never inserted as markup. */

import { element } from "./elements.mjs";

/**
 * Return the elements of a list of outputs, best first.
 *
 * @param {{tokens: string[], tokenScores: number[], score: number, truncated: boolean}[]} hypotheses
 * @param {string} separator joins tokens
 * @param {object} say the dictionary of the page's language
 */
export function outputItems(hypotheses, separator, say) {
  return hypotheses.map((hypothesis) => {
    const item = element("li", "");
    item.dataset.score = hypothesis.score;
    item.append(textOf(hypothesis, separator, say), probabilityOf(Math.exp(hypothesis.score), say));
    return item;
  });
}

function textOf({ tokens, tokenScores, truncated }, separator, say) {
  const text = element("span", separator ? "text words" : "text");
  text.dir = "auto";
  tokens.forEach((token, place) => {
    if (place > 0 && separator) text.append(separator);
    text.append(shaded("token", inert(token), tokenScores[place], say));
  });
  if (truncated) text.append(element("span", "cut", `… ${say.truncated}`));
  else text.append(endMark(tokenScores.at(-1), say));
  return text;
}

function endMark(score, say) {
  const mark = shaded("token end", "⏎", score, say);
  mark.firstChild.replaceWith(element("span", "", "⏎"));
  mark.firstChild.ariaHidden = "true";
  mark.lastChild.textContent = ` ${say.theEnd} ${mark.dataset.percent}`;
  return mark;
}

function shaded(className, token, score, say) {
  const probability = Math.exp(score);
  const span = element("span", className, token);
  span.style.setProperty("--p", probability);
  span.dataset.score = score;
  span.dataset.percent = percent(probability);
  span.title = say.probabilityIs(span.dataset.percent);
  span.append(element("span", "unseen", ` ${span.dataset.percent}`));
  return span;
}

function probabilityOf(probability, say) {
  const whole = element("span", "probability");
  const bar = element("span", "bar");
  bar.style.setProperty("--p", probability);
  const number = element("span", "number", percent(probability));
  number.prepend(element("span", "unseen", `${say.outputProbability}: `));
  whole.append(bar, number);
  return whole;
}

/** Format a probability for people. */
export function percent(probability) {
  const hundredths = probability * 100;
  if (hundredths > 0 && hundredths < 0.1) return "< 0.1%";
  return `${hundredths.toFixed(hundredths >= 99.95 ? 0 : 1)}%`;
}

// characters that are invisible or look like a space
const UNSEEN = /[\p{C}\p{Z}\p{M}]/gu;
// controls, also of the writing direction: the text around them would change
const CONTROLS = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/gu;

/** Return a token with a number in place of each character that cannot be seen on its own. */
export function visible(token) {
  return token.replace(UNSEEN, codePoint);
}

/** Return a text with a number in place of each control character. */
export function inert(text) {
  return text.replace(CONTROLS, codePoint);
}

function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}
