/** Many texts: from lines to requests, and from results to a table as text. */

import { rejectionOf } from "./rejection.mjs";
import { describeUnknown, describeUnknownFeatures } from "./words.mjs";

/** Statuses of a request with a text that the server does not accept. */
const REJECTED = [400, 413, 422];
/** The result of a line without an output. */
const NOTHING = { output: "", probability: null, truncated: false, unknown: [], unknownFeatures: [] };

/** Return the texts of lines: `source`, or `source`, a tab and its features if the model reads features. */
export function parseLines(text, features = null) {
  const lines = text.replace(/(\r?\n|\r)+$/, "").split(/\r\n|\n|\r/);
  if (features === null) return lines.map((source) => ({ source, features: null }));
  return lines.map((line) => {
    const [source, ...own] = line.split("\t");
    return { source, features: own.length > 0 ? own.join("\t") : features };
  });
}

/**
 * Yield the rows of lines in order, one list per request:
 * {source, features, output, probability, truncated, unknown, unknownFeatures, error}.
 * An empty line has an empty output. If the server rejects several lines at once, each of them is a request.
 *
 * @param {{source: string, features: string | null}[]} lines
 * @param {number} size the maximum number of texts in a request
 * @param {(lines: object[]) => Promise<object[]>} predict returns the prediction of each line
 */
export async function* predictLines(lines, size, predict) {
  for (let first = 0; first < lines.length; first += size) {
    yield await rowsOf(lines.slice(first, first + size), first + 1, predict);
  }
}

/** Return the rows of lines; `number` is that of the first one. */
async function rowsOf(lines, number, predict) {
  const full = lines.filter(({ source }) => source !== "");
  try {
    const predictions = full.length > 0 ? await predict(full) : [];
    const results = new Map(full.map((line, place) => [line, best(predictions[place])]));
    return lines.map((line) => ({ ...line, ...(results.get(line) ?? NOTHING) }));
  } catch (error) {
    if (!REJECTED.includes(error.status)) throw error;
    if (lines.length === 1) return [{ ...lines[0], ...NOTHING, error: renumbered(error, number) }];
  }
  const rows = [];
  for (const [place, line] of lines.entries()) rows.push(...(await rowsOf([line], number + place, predict)));
  return rows;
}

function best({ hypotheses: [{ text, score, truncated }], unknown = [], unknown_features: unknownFeatures = [] }) {
  const unknowns = { unknown: [...new Set(unknown)], unknownFeatures: [...new Set(unknownFeatures)] };
  return { output: text, probability: Math.exp(score), truncated, ...unknowns };
}

/** Return a problem of a line; the server calls a text that was sent alone "text 1". */
function renumbered(error, number) {
  return { ...error, detail: error.detail.replace(/\btext 1\b/, `line ${number}`) };
}

/** Return the error of a row, or what limits its output; "" for most rows. */
export function noteOf({ truncated, unknown, unknownFeatures, error }, say) {
  if (error) return rejectionOf(error, say).text;
  const warnings = [];
  if (unknown.length > 0) warnings.push(describeUnknown(unknown, say));
  if (unknownFeatures.length > 0) warnings.push(describeUnknownFeatures(unknownFeatures, say));
  return [truncated ? say.truncated : "", warnings.join(" ")].filter(Boolean).join("; ");
}

/** Return rows as tab-separated lines under their titles. */
export function toTsv(titles, rows) {
  return [titles, ...rows].map((row) => `${row.map(field).join("\t")}\n`).join("");
}

/** A field of TSV has neither tabs nor line breaks. */
function field(value) {
  return String(value ?? "").replace(/[\t\r\n]/g, " ");
}
