import assert from "node:assert/strict";
import { test } from "node:test";

import { parseLines, predictLines, toTsv } from "../../../freerun/server/page/lines.mjs";

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
    if (lines.some(({ source }) => source === "bad")) throw Object.assign(new Error("too long"), { status: 422 });
    return upper(lines);
  };
  const [rows] = await all(parseLines("a\nbad\nc"), 50, predict);
  assert.deepEqual(rows.map(({ output, error }) => [output, error]), [["A", undefined], ["", "too long"], ["C", undefined]]);
});

test("any other error ends them", async () => {
  await assert.rejects(all(parseLines("a"), 5, () => Promise.reject(new Error("gone"))), /gone/);
});

test("a table is tab-separated, one line per row", () => {
  assert.equal(toTsv(["in", "p"], [["a\tb\nc", 0.5], [null, null]]), "in\tp\na b c\t0.5\n\t\n");
});
