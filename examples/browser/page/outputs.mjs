/** Outputs as elements. Text from the model or the user is never inserted as markup. */

/** Return the elements of a list of outputs, best first; `separator` joins tokens. */
export function outputItems(hypotheses, separator) {
  return hypotheses.map((hypothesis) => {
    const item = element("li", "");
    item.dataset.score = hypothesis.score;
    item.append(textOf(hypothesis, separator), probabilityOf(Math.exp(hypothesis.score)));
    return item;
  });
}

function textOf({ tokens, tokenScores, truncated }, separator) {
  const text = element("span", separator ? "text words" : "text");
  tokens.forEach((token, place) => {
    if (place > 0 && separator) text.append(separator);
    text.append(shaded("token", token, tokenScores[place]));
  });
  if (truncated) text.append(element("span", "cut", "… truncated at the length bound"));
  else text.append(endMark(tokenScores.at(-1)));
  return text;
}

function endMark(score) {
  const mark = shaded("token end", "⏎", score);
  mark.firstChild.replaceWith(element("span", "", "⏎"));
  mark.firstChild.ariaHidden = "true";
  mark.lastChild.textContent = ` the end ${mark.dataset.percent}`;
  return mark;
}

function shaded(className, token, score) {
  const probability = Math.exp(score);
  const span = element("span", className, token);
  span.style.setProperty("--p", probability);
  span.dataset.score = score;
  span.dataset.percent = percent(probability);
  span.title = `probability ${span.dataset.percent}`;
  span.append(element("span", "unseen", ` ${span.dataset.percent}`));
  return span;
}

function probabilityOf(probability) {
  const whole = element("span", "probability");
  const bar = element("span", "bar");
  bar.style.setProperty("--p", probability);
  const number = element("span", "number", percent(probability));
  number.prepend(element("span", "unseen", "probability of this output: "));
  whole.append(bar, number);
  return whole;
}

/** Format a probability for people. */
export function percent(probability) {
  const hundredths = probability * 100;
  if (hundredths > 0 && hundredths < 0.1) return "< 0.1 %";
  return `${hundredths.toFixed(hundredths >= 99.95 ? 0 : 1)} %`;
}

/** Return a new element with a class and a text. */
export function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
