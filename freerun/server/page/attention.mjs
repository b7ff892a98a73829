/** The attention of one output as a table: rows are its tokens, columns the source's; the shading is the weight. */

import { element } from "./elements.mjs";
import { inert, percent } from "./outputs.mjs";

/** A larger table would take the browser too long. */
const MAX_CELLS = 20_000;
/** Longer labels of columns are written vertically. */
const MAX_HORIZONTAL = 3;
const END = "⏎";

/** Return a table, null if it would be too large. */
export function attentionTable({ tokens, attention }, sourceTokens, say) {
  if (attention.length * sourceTokens.length > MAX_CELLS) return null;
  const isLong = sourceTokens.some((token) => token.length > MAX_HORIZONTAL);
  const table = element("table", isLong ? "heat long" : "heat");
  table.append(head(sourceTokens, say), element("tbody"));
  const labels = [...tokens, END];
  table.tBodies[0].append(...attention.map((weights, place) => row(labels[place], weights, say)));
  return table;
}

function head(sourceTokens, say) {
  const head = element("thead");
  const row = element("tr");
  row.append(element("td"), ...sourceTokens.map((token) => label(token, "col", say)));
  head.append(row);
  return head;
}

function row(token, weights, say) {
  const row = element("tr");
  row.append(label(token, "row", say), ...weights.map(cell));
  return row;
}

function cell(weight) {
  const cell = element("td");
  cell.style.setProperty("--p", weight);
  cell.title = percent(weight);
  cell.append(element("span", "unseen", cell.title));
  return cell;
}

function label(token, scope, say) {
  const header = element("th");
  const text = element("bdi", "", inert(token));
  header.scope = scope;
  header.append(text);
  if (token === END) {
    text.ariaHidden = "true";
    header.append(element("span", "unseen", say.theEnd));
  }
  return header;
}
