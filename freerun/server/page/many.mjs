/** Many lines: a table that is filled request by request, and copied as text. */

import { Latest } from "./api.mjs";
import { at, element } from "./elements.mjs";
import { noteOf, parseLines, predictLines, toTsv } from "./lines.mjs";
import { inert, percent } from "./outputs.mjs";
import { rejectionOf } from "./rejection.mjs";
import { describeUnknown, describeUnknownFeatures } from "./words.mjs";

/** Texts in a request: few enough to see progress. */
const MAX_TEXTS = 50;
/** More rows would make the page slow; copying includes them. */
const MAX_ROWS = 1000;
/** Milliseconds for which the button to copy says that it did. */
const COPIED = 2000;

export class Many {
  #latest = new Latest();
  #rows = [];
  #copiedTimer;

  /** The parameters are those of `Single`. */
  constructor(page, request) {
    this.page = page;
    this.request = request;
    at("cancel").addEventListener("click", () => this.#latest.stop());
    at("copy").addEventListener("click", () => this.#copy());
    at("lines").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
    });
  }

  /** Predict all lines. */
  now() {
    if (!at("start").disabled) this.#predict().catch(this.page.showError);
  }

  /** Abort the request, and show no table. */
  stop() {
    this.#latest.stop();
    at("table-section").hidden = true;
    at("progress-text").textContent = "";
  }

  async #predict() {
    const { say, model } = this.page;
    this.page.clearError();
    const lines = parseLines(at("lines").value, model.features ? at("features").value : null);
    if (lines.every(({ source }) => source === "")) {
      at("progress-text").textContent = say.noLines;
      return;
    }
    this.#begin(lines.length);
    try {
      const isDone = await this.#latest.run((signal) => this.#fill(lines, signal));
      const end = isDone ? say.finished(lines.length) : say.canceled(this.#rows.length, lines.length);
      at("progress-text").textContent = at("announcement").textContent = end;
    } finally {
      this.#showBusy(false);
    }
  }

  #begin(total) {
    const { say, model } = this.page;
    this.#rows = [];
    at("table-section").hidden = false;
    at("table-head").replaceChildren(...titlesOf(model, say).map(titleElement));
    at("table-rows").replaceChildren();
    at("table-note").textContent = total > MAX_ROWS ? say.firstRows(MAX_ROWS) : "";
    at("copy-note").textContent = "";
    at("copy").textContent = say.copyTsv;
    this.#progress(total);
    this.#showBusy(true);
  }

  async #fill(lines, signal) {
    const { model, options } = this.page;
    const search = { beam_size: options.beamSize, num_hypotheses: 1, token_scores: false };
    const predict = async (texts) => (await this.request(texts, search, signal)).predictions;
    for await (const rows of predictLines(lines, Math.min(MAX_TEXTS, model.limits.max_texts), predict)) {
      signal.throwIfAborted();
      this.#append(rows);
      this.#progress(lines.length);
    }
    return true;
  }

  #append(rows) {
    const { say, model } = this.page;
    const room = Math.max(MAX_ROWS - this.#rows.length, 0);
    this.#rows.push(...rows);
    at("table-rows").append(...rows.slice(0, room).map((row) => rowElement(row, model, say)));
  }

  #progress(total) {
    Object.assign(at("progress"), { max: total, value: this.#rows.length });
    at("progress-text").textContent = this.page.say.progress(this.#rows.length, total);
  }

  /** Show one of the buttons to start and to cancel as usable; the focus moves with it. */
  #showBusy(isBusy) {
    const [usable, other] = isBusy ? ["cancel", "start"] : ["start", "cancel"];
    const isFocused = document.activeElement === at(other);
    at("start").disabled = false;
    at("cancel").hidden = at("progress").hidden = false;
    if (isFocused) at(usable).focus();
    at("start").disabled = isBusy;
    at("cancel").hidden = at("progress").hidden = !isBusy;
  }

  async #copy() {
    const { say, model } = this.page;
    const fields = (row) => [...textsOf(row, model), row.probability, noteOf(row, say)];
    const isCopied = await copied(toTsv([...titlesOf(model, say), say.note], this.#rows.map(fields)));
    at("announcement").textContent = isCopied ? say.copied : say.notCopied;
    at("copy-note").textContent = isCopied ? "" : say.notCopied;
    if (!isCopied) return;
    at("copy").textContent = say.copied;
    clearTimeout(this.#copiedTimer);
    this.#copiedTimer = setTimeout(() => (at("copy").textContent = say.copyTsv), COPIED);
  }
}

function titlesOf(model, say) {
  return [say.source, ...(model.features ? [say.featuresField] : []), say.output, say.probability];
}

function textsOf({ source, features, output }, model) {
  return [source, ...(model.features ? [features] : []), output];
}

function titleElement(title) {
  return Object.assign(element("th", "", title), { scope: "col" });
}

function rowElement(row, model, say) {
  const { probability, truncated, unknown, unknownFeatures, error } = row;
  const texts = textsOf(row, model).map((text) => Object.assign(element("td", "cell", inert(text)), { dir: "auto" }));
  const [source, features, output] = [texts[0], texts[1], texts.at(-1)];
  if (unknown.length > 0) source.append(element("div", "soft", describeUnknown(unknown, say)));
  if (unknownFeatures.length > 0) features.append(element("div", "soft", describeUnknownFeatures(unknownFeatures, say)));
  if (error) output.append(errorElement(error, say));
  else if (truncated) output.append(element("span", "cut", `… ${say.truncated}`));
  const made = element("tr");
  made.append(...texts, element("td", "number", probability === null ? "" : percent(probability)));
  return made;
}

function errorElement(error, say) {
  const { text, language } = rejectionOf(error, say);
  return Object.assign(element("span", "wrong", text), { lang: language });
}

/** Copy a text; return true if it is in the clipboard. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedFromField(text); // plain http, except on the same machine, has no clipboard
  }
}

function copiedFromField(text) {
  const focused = document.activeElement;
  const field = element("textarea", "unseen");
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isCopied;
}
