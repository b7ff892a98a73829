/** The model's data, metrics and card. */

import { at, element } from "./elements.mjs";
import { blocksOf } from "./markdown.mjs";
import { inert } from "./outputs.mjs";

/** Headings of the card are below the page's own. */
const LEVELS = 2;

/** Show them. */
export function showAbout(model, say) {
  const facts = factsOf(model, say).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]);
  at("facts").replaceChildren(...facts);
  const rows = metricRows(model.metrics);
  at("metrics").hidden = rows.length === 0;
  at("metric-rows").replaceChildren(...rows.map((row) => metricRow(row, say)));
  at("card-section").hidden = model.card === "";
  at("card").replaceChildren(...blocksOf(model.card).map(blockElement));
}

function factsOf({ name, digest, parameters, runtime, source, target, features }, say) {
  const { name: runtimeName, instructions, precision } = runtime;
  const size = (tokens, vocabulary) => say.vocabularySize(tokens, vocabulary);
  return [
    [say.model, inert(name)],
    [say.parameters, parameters.toLocaleString(say.language)],
    [say.runtime, [runtimeName, instructions, precision].filter(Boolean).join(", ")],
    [say.sourceTokens, size(say.tokenKind(source.tokens), source.vocabulary)],
    [say.targetTokens, size(say.tokenKind(target.tokens), target.vocabulary)],
    ...(features ? [[say.featureTokens, size(`“${features.separator}”`, features.vocabulary)]] : []),
    [say.digest, digest],
  ];
}

/** Return the metrics with their intervals: [{name, value, low, high}]. */
export function metricRows(metrics) {
  const names = Object.keys(metrics).filter((name) => !/\.(low|high)$/.test(name));
  return names.map((name) => ({ name, value: metrics[name], low: metrics[`${name}.low`], high: metrics[`${name}.high`] }));
}

function metricRow({ name, value, low, high }, say) {
  const row = element("tr");
  const header = element("th", "", name);
  header.scope = "row";
  const interval = low == null || high == null ? "" : `${number(low, say)} – ${number(high, say)}`;
  row.append(header, element("td", "number", number(value, say)), element("td", "number", interval));
  return row;
}

function number(value, say) {
  return value == null ? say.undefinedValue : value.toLocaleString(say.language, { maximumSignificantDigits: 4 });
}

function blockElement({ kind, level, text, rows, items }) {
  if (kind === "heading") return element(`h${Math.min(level + LEVELS, 6)}`, "", text);
  if (kind === "code") return element("pre", "", text);
  if (kind === "list") return filled("ul", items.map((item) => element("li", "", item)));
  if (kind === "table") return cardTable(rows);
  return element("p", "", text);
}

function cardTable([titles = [], ...rows]) {
  const head = titles.map((title) => Object.assign(element("th", "", title), { scope: "col" }));
  const body = rows.map((row) => filled("tr", row.map((cell) => element("td", "", cell))));
  const scroll = filled("div", [filled("table", [filled("thead", [filled("tr", head)]), filled("tbody", body)])], "scroll");
  scroll.tabIndex = 0; // for keyboards
  return scroll;
}

function filled(name, children, className = "") {
  const parent = element(name, className);
  parent.append(...children);
  return parent;
}
