/** Many texts: from lines to requests, and from results to a table as text. */

/** Statuses of a request with a text that the server does not accept. */
const REJECTED = [400, 413, 422];

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
 * Yield the rows of lines in order, one list per request: {source, features, output, probability, truncated, error}.
 * An empty line has an empty output. If the server rejects several lines at once, each of them is a request.
 *
 * @param {{source: string, features: string | null}[]} lines
 * @param {number} size the maximum number of texts in a request
 * @param {(lines: object[]) => Promise<object[]>} predict returns the prediction of each line
 */
export async function* predictLines(lines, size, predict) {
  for (let first = 0; first < lines.length; first += size) {
    yield await rowsOf(lines.slice(first, first + size), predict);
  }
}

async function rowsOf(lines, predict) {
  const full = lines.filter(({ source }) => source !== "");
  try {
    const predictions = full.length > 0 ? await predict(full) : [];
    const results = new Map(full.map((line, place) => [line, best(predictions[place])]));
    return lines.map((line) => ({ ...line, ...(results.get(line) ?? { output: "", probability: null }) }));
  } catch (error) {
    if (!REJECTED.includes(error.status)) throw error;
    if (lines.length === 1) return [{ ...lines[0], output: "", probability: null, error: error.message }];
  }
  const rows = [];
  for (const line of lines) rows.push(...(await rowsOf([line], predict)));
  return rows;
}

function best({ hypotheses: [{ text, score, truncated }] }) {
  return { output: text, probability: Math.exp(score), truncated };
}

/** Return rows as tab-separated lines under their titles. */
export function toTsv(titles, rows) {
  return [titles, ...rows].map((row) => `${row.map(field).join("\t")}\n`).join("");
}

/** A field of TSV has neither tabs nor line breaks. */
function field(value) {
  return String(value ?? "").replace(/[\t\r\n]/g, " ");
}
