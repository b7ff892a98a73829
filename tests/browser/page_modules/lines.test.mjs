import assert from "node:assert/strict";
import { test } from "node:test";

import { Problem } from "../../../freerun/server/page/api.mjs";
import { english } from "../../../freerun/server/page/english.mjs";
import { noteOf, parseLines, predictLines, toTsv } from "../../../freerun/server/page/lines.mjs";

const upper = async (lines) => lines.map(({ source }) => ({ hypotheses: [{ text: source.toUpperCase(), score: 0, truncated: false }] }));

async function all(lines, size, predict) {
  const lists = [];
  for await (const rows of predictLines(lines, size, predict)) lists.push(rows);
  return lists;
}

test("lines are texts; the end of the last one is none", () => {
  const sources = (text) => parseLines(text).map(({ source }) => source);
  assert.deepEqual(sources("a\r\nb\rc\n\nd\n"), ["a", "b", "c", "", "d"]);
  assert.deepEqual(sources("a\tb"), ["a\tb"]);
  assert.deepEqual(sources(""), [""]);
});

test("a line has its own features, or the common ones", () => {
  assert.deepEqual(parseLines("a\tV;PST\nb\nc\t", "N"), [
    { source: "a", features: "V;PST" },
    { source: "b", features: "N" },
    { source: "c", features: "" },
  ]);
});

test("requests have a limited size, and rows are in order", async () => {
  const sizes = [];
  const lists = await all(parseLines("a\nb\n\nd\ne"), 2, (lines) => (sizes.push(lines.length), upper(lines)));
  assert.deepEqual(sizes, [2, 1, 1]);
  assert.deepEqual(lists.flat().map(({ output }) => output), ["A", "B", "", "D", "E"]);
  assert.equal(lists[0][0].probability, 1);
  assert.equal(lists[1][0].probability, null);
});

test("one text that the server rejects does not cost the others their outputs", async () => {
  const predict = async (lines) => {
    if (lines.some(({ source }) => source === "bad")) throw new Problem(422, "too long");
    return upper(lines);
  };
  const [rows] = await all(parseLines("a\nbad\nc"), 50, predict);
  assert.deepEqual(rows.map(({ output, error }) => [output, error?.status]), [["A", undefined], ["", 422], ["C", undefined]]);
});

test("a problem names the line, although the text was sent alone", async () => {
  const predict = async (lines) => {
    if (lines.some(({ source }) => source === "bad")) throw new Problem(413, "features of text 1 have 12 tokens.", "max-tokens", 9);
    return upper(lines);
  };
  const rows = (await all(parseLines("a\nb\n\nd\nbad\nbad"), 4, predict)).flat();
  const details = rows.slice(4).map(({ error }) => error.detail);
  assert.deepEqual(details, ["features of line 5 have 12 tokens.", "features of line 6 have 12 tokens."]);
  assert.deepEqual([rows[4].error.limit, rows[4].error.maximum], ["max-tokens", 9]);
});

test("a row has what the model does not know, once each", async () => {
  const hypotheses = [{ text: "x", score: 0, truncated: false }];
  const predict = async () => [{ hypotheses, unknown: ["E", "N", "E"], unknown_features: ["V"] }, { hypotheses }, { hypotheses }];
  const [[first, second, empty]] = await all(parseLines("ENE\na\n\nb"), 50, predict);
  assert.deepEqual([first.unknown, first.unknownFeatures], [["E", "N"], ["V"]]);
  assert.deepEqual([second.unknown, second.unknownFeatures], [[], []]);
  assert.deepEqual([empty.unknown, empty.unknownFeatures, empty.output], [[], [], ""]);
});

test("any other error ends them", async () => {
  await assert.rejects(all(parseLines("a"), 5, () => Promise.reject(new Error("gone"))), /gone/);
});

test("a table is tab-separated, one line per row", () => {
  assert.equal(toTsv(["in", "p"], [["a\tb\nc", 0.5], [null, null]]), "in\tp\na b c\t0.5\n\t\n");
});

test("a note has the error, or what limits the output", () => {
  const row = { truncated: false, unknown: [], unknownFeatures: [] };
  assert.equal(noteOf(row, english), "");
  assert.equal(noteOf({ ...row, truncated: true }, english), "truncated at the length bound");
  assert.equal(
    noteOf({ truncated: true, unknown: ["X"], unknownFeatures: ["V"] }, english),
    "truncated at the length bound; “X”: not in the model’s vocabulary, so mapped to UNK. " +
      "“V”: not among the model’s features, so mapped to UNK.",
  );
  assert.equal(noteOf({ ...row, error: new Problem(413, "No.", "max-tokens", 9) }, english), "Too long: at most 9 tokens are allowed.");
  assert.equal(noteOf({ ...row, error: new Problem(422, "No.") }, english), "No.");
});
