/** The page of `freerun serve`: choose a model, type, and see what it writes and how sure it is. */

import { showAbout } from "./about.mjs";
import { Api, Latest, Problem } from "./api.mjs";
import { at, button, element } from "./elements.mjs";
import { Key } from "./key.mjs";
import { dictionaryFor, translate } from "./language.mjs";
import { Many } from "./many.mjs";
import { recall, remember } from "./memory.mjs";
import { Options } from "./options.mjs";
import { rejectionOf } from "./rejection.mjs";
import { Single } from "./single.mjs";
import { describeFeatures, describeModel } from "./words.mjs";

const OK = 200;
const UNAUTHORIZED = 401;
/** Ids without a token, such as that of the end. */
const SPECIAL_IDS = 4;
const THEME = ["localStorage", "freerun.theme"];

const say = dictionaryFor(navigator.languages);
const key = new Key(say);
const api = new Api({ key, onWait: showWait });
const loading = new Latest();
const options = new Options(() => isMany() || single.now());
/** What the two modes share. */
const page = { say, options, model: null, isKnown, showError, clearError, showWait };
const single = new Single(page, predict);
const many = new Many(page, predict);

translate(document, say);
showTheme(recall(...THEME) ?? "");
listen();
start();

function start() {
  clearError();
  open().catch(showError);
}

async function open() {
  const { models } = await api.get("v1/models");
  if (models.length === 0) return void (at("model").textContent = say.noModels);
  at("name").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  at("name").value = linkedModel() ?? models[0].name;
  at("model-choice").hidden = models.length === 1;
  await choose();
}

/** Return the model that the page's address names, undefined without one. */
function linkedModel() {
  const linked = new URLSearchParams(location.hash.slice(1)).get("model");
  return [...at("name").options].map(({ value }) => value).find((name) => name === linked);
}

/** Show the model that is named by an address that is opened while the page is there. */
function followLink() {
  const name = linkedModel();
  if (!name || name === at("name").value) return;
  at("name").value = name;
  changeModel();
}

function changeModel() {
  clearError();
  choose().catch(showError);
}

async function choose() {
  const name = at("name").value;
  single.stop();
  many.stop();
  const model = await loading.run((signal) => api.get(pathOf(name), signal));
  if (!model) return;
  page.model = model;
  showModel();
  if (!isMany()) single.now();
}

function showModel() {
  const { model } = page;
  const { name, architecture, source, target, features } = model;
  const isOnly = at("name").options.length === 1;
  document.title = `${name} – freerun`;
  at("model").textContent = `${isOnly ? `${name}: ` : ""}${describeModel({ model: architecture, source, target, features }, say)}`;
  at("features-field").hidden = !features;
  if (features) at("known-features").textContent = describeKnownFeatures(features);
  at("lines-features").hidden = !features;
  options.limit(model.limits.max_beam_size);
  showAbout(model, say);
  at("about").hidden = false;
  for (const each of at("form").elements) each.disabled = false;
  if (document.activeElement === document.body) field().focus();
}

function describeKnownFeatures({ separator, symbols, vocabulary }) {
  return describeFeatures({ separator, tokens: symbols, total: vocabulary - SPECIAL_IDS }, say);
}

function pathOf(name) {
  return `v1/models/${encodeURIComponent(name)}`;
}

/** Return the predictions of lines, {source, features}, and how long they took: {predictions, milliseconds}. */
async function predict(lines, search, signal) {
  const texts = lines.map(({ source }) => source);
  const features = page.model.features ? { features: lines.map((line) => line.features) } : {};
  const body = { texts, ...features, ...search };
  const { content, milliseconds } = await api.post(`${pathOf(page.model.name)}/predict`, body, signal);
  return { predictions: content.predictions, milliseconds };
}

/** True if the model is known to have the tokens of a text in its vocabulary; a server names only the first ones. */
function isKnown(text) {
  const { tokens, symbols } = page.model.source;
  return (tokens === "char" ? [...text] : [text]).every((token) => symbols.includes(token));
}

// ------------------------------------------------------------------------------------------------------------- modes

function isMany() {
  return at("many").checked;
}

function mode() {
  return isMany() ? many : single;
}

function field() {
  return at(isMany() ? "lines" : "source");
}

/** Show the fields of one mode; an empty one has the text of the other mode. */
function changeMode() {
  single.stop();
  many.stop();
  showWait(null);
  for (const each of document.querySelectorAll("[data-mode]")) each.hidden = (each.dataset.mode === "many") !== isMany();
  if (isMany()) at("lines").value ||= at("source").value;
  else at("source").value ||= at("lines").value.split("\n")[0].split("\t")[0];
  field().focus();
  if (!isMany()) single.now();
}

/** Pasted lines do not fit into a field of one line; they follow the lines that are there. */
function paste(event) {
  const text = event.clipboardData.getData("text/plain").replace(/\s+$/, "");
  if (!/[\r\n]/.test(text)) return;
  event.preventDefault();
  const { value, selectionStart, selectionEnd } = at("source");
  const pasted = value.slice(0, selectionStart) + text + value.slice(selectionEnd);
  at("lines").value = at("lines").value === "" ? pasted : `${at("lines").value.replace(/\n$/, "")}\n${pasted}`;
  at("many").checked = true;
  changeMode();
}

function listen() {
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    mode().now();
  });
  at("source").addEventListener("paste", paste);
  at("many").addEventListener("change", changeMode);
  at("numbers").addEventListener("change", () => at("outputs").classList.toggle("numbers", at("numbers").checked));
  at("name").addEventListener("change", () => {
    history.replaceState(null, "", `#${new URLSearchParams({ model: at("name").value })}`);
    changeModel();
  });
  addEventListener("hashchange", followLink);
  at("theme").addEventListener("change", () => {
    remember(...THEME, at("theme").value);
    showTheme(at("theme").value);
  });
}

function showTheme(name) {
  at("theme").value = name;
  document.documentElement.dataset.theme = at("theme").value;
}

// ------------------------------------------------------------------------------------------------------------ errors

/** Say that a request waits for the server; null: it does no longer. */
function showWait(wait) {
  const text = !wait ? "" : wait.busy ? say.busy(Math.ceil(wait.milliseconds / 1000)) : say.unreachable;
  if (at("wait").textContent !== text) at("wait").textContent = text;
}

function clearError() {
  at("error").replaceChildren();
}

function showError(error) {
  at("results").hidden = true;
  if (!page.model) at("model").textContent = say.noModel;
  at("error").replaceChildren(...explanation(error));
}

function explanation(error) {
  if (!(error instanceof Problem)) {
    console.error(error);
    return [say.unexpected(error.message)];
  }
  if (error.status === UNAUTHORIZED) return [say.keyNeeded, button(say.keyEnter, askAgain)];
  if (error.status === OK) return [say.badAnswer];
  const { text, language } = rejectionOf(error, say);
  return [Object.assign(element("span", "", text), { lang: language })];
}

function askAgain() {
  key.reconsider();
  if (page.model) mode().now();
  else start();
}
