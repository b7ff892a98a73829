/** One text: predicted as you type, with several outputs and the attention of one of them. */

import { Latest } from "./api.mjs";
import { attentionTable } from "./attention.mjs";
import { at, button, element } from "./elements.mjs";
import { outputItems, percent } from "./outputs.mjs";
import { caseThatHelps, describeUnknown, describeUnknownFeatures, inCase } from "./words.mjs";

/** Milliseconds without a key press before a prediction starts. */
const DEBOUNCE = 100;
/** Attention grows with the square of the length: for longer texts the answer would be megabytes. */
const MAX_ATTENDING = 500;

export class Single {
  #latest = new Latest();
  #timer;

  /**
   * @param {object} page `say`, and `showError(error)`
   * @param {(texts: object[], options: object, signal: AbortSignal) => Promise<object>} request predicts texts
   */
  constructor(page, request) {
    this.page = page;
    this.request = request;
    for (const name of ["source", "features"]) at(name).addEventListener("input", () => this.later());
  }

  /** Predict once no key has been pressed for a moment. */
  later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.now(), DEBOUNCE);
  }

  /** Predict the text in the field. */
  now() {
    clearTimeout(this.#timer);
    this.#predict().catch(this.page.showError);
  }

  /** Abort the request, and show no outputs. */
  stop() {
    clearTimeout(this.#timer);
    this.#latest.stop();
    at("results").hidden = true;
    at("note").replaceChildren();
  }

  async #predict() {
    const { model, options } = this.page;
    const line = { source: at("source").value, features: model.features ? at("features").value : null };
    this.page.clearError();
    if (line.source === "") {
      this.page.showWait(null);
      return this.stop();
    }
    at("results").classList.add("waiting");
    const attention = model.attention && line.source.length <= MAX_ATTENDING;
    const search = { beam_size: options.beamSize, num_hypotheses: options.numHypotheses, attention };
    const answer = await this.#latest.run((signal) => this.request([line], search, signal));
    if (answer) this.#show(line, answer.predictions[0], answer.milliseconds);
  }

  #show(line, prediction, milliseconds) {
    const { say } = this.page;
    const { text, score } = prediction.hypotheses[0];
    at("results").hidden = false;
    at("results").classList.remove("waiting");
    Object.assign(at("outputs").dataset, { source: line.source, features: line.features ?? "" });
    this.#showOutputs(prediction);
    at("time").textContent = say.milliseconds(milliseconds.toFixed(milliseconds < 10 ? 1 : 0));
    at("note").replaceChildren(...this.#notes(line.source, prediction));
    at("announcement").textContent = say.bestOutput(text, percent(Math.exp(score)));
  }

  #showOutputs({ hypotheses, source_tokens: sourceTokens }) {
    const { say, model } = this.page;
    const items = outputItems(hypotheses.map((each) => shownHypothesis(each, model.target.tokens)), separatorOf(model), say);
    const isAttending = Boolean(sourceTokens) && hypotheses.every(({ attention }) => attention);
    at("outputs").classList.toggle("ranked", isAttending);
    at("attention").hidden = !model.attention;
    at("attention-note").textContent = "";
    at("heat").replaceChildren(element("p", "soft", say.attentionTooLarge));
    if (isAttending) {
      const ranked = hypotheses.map((each, place) => ({ ...each, rank: place + 1 }));
      items.forEach((item, place) => item.prepend(this.#chooser(ranked[place], sourceTokens)));
      this.#choose(items[0].querySelector("button"), ranked[0], sourceTokens);
    }
    at("outputs").replaceChildren(...items);
  }

  /** Return a button that shows the attention of an output. */
  #chooser(hypothesis, sourceTokens) {
    const chooser = button(String(hypothesis.rank), () => this.#choose(chooser, hypothesis, sourceTokens));
    chooser.ariaLabel = chooser.title = this.page.say.attentionOf(hypothesis.rank);
    chooser.ariaPressed = "false";
    return chooser;
  }

  #choose(chooser, hypothesis, sourceTokens) {
    const { say } = this.page;
    for (const each of at("outputs").querySelectorAll("button")) each.ariaPressed = "false";
    chooser.ariaPressed = "true";
    const table = attentionTable(hypothesis, sourceTokens, say);
    table?.setAttribute("aria-describedby", "attention-note");
    at("attention-note").textContent = say.attentionCaption(hypothesis.rank);
    at("heat").replaceChildren(table ?? element("p", "soft", say.attentionTooLarge));
  }

  /** Return notes about what the model does not know, with a fix where there is one. */
  #notes(text, { unknown = [], unknown_features: unknownFeatures = [] }) {
    const { say } = this.page;
    const notes = [];
    if (unknown.length > 0) {
      const helpful = caseThatHelps(unknown, this.page.isKnown);
      const fix = helpful ? [button(say.writeInCase(helpful), () => this.type(inCase(text, helpful)))] : [];
      notes.push(describeUnknown([...new Set(unknown)], say), ...fix);
    }
    if (unknownFeatures.length > 0) notes.push(element("div", "", describeUnknownFeatures([...new Set(unknownFeatures)], say)));
    return notes;
  }

  /** Put a text into the field. */
  type(text) {
    at("source").value = text;
    at("source").focus();
    this.now();
  }
}

/** Return a hypothesis as it is shown: a subword's mark of a word's beginning is a space. */
function shownHypothesis(hypothesis, kind) {
  const { tokens, token_scores: tokenScores } = hypothesis;
  const shown = kind.startsWith("sentencepiece") ? tokens.map((token) => token.replace("▁", " ")) : tokens;
  return { ...hypothesis, tokens: shown, tokenScores };
}

function separatorOf({ target }) {
  return target.tokens === "whitespace" ? " " : "";
}
