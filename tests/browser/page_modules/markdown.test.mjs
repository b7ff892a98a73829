import assert from "node:assert/strict";
import { test } from "node:test";

import { blocksOf } from "../../../freerun/server/page/markdown.mjs";

test("a card's blocks are told apart", () => {
  const card = "# A model\n\nOne line,\nanother.\n\n    freerun predict X\n      y\n\n## Data\n| a | b |\n|---|---:|\n| 1 |  |\n\n- x\n  y\n- z\n";
  assert.deepEqual(blocksOf(card), [
    { kind: "heading", level: 1, text: "A model" },
    { kind: "paragraph", text: "One line, another." },
    { kind: "code", text: "freerun predict X\n  y" },
    { kind: "heading", level: 2, text: "Data" },
    { kind: "table", rows: [["a", "b"], ["1", ""]] },
    { kind: "list", items: ["x y", "z"] },
  ]);
});

test("marks and escapes are removed once", () => {
  assert.deepEqual(blocksOf("`.free`: **a** &lt;b&gt; &#39;c&#39; &amp;lt; x\\|y"), [
    { kind: "paragraph", text: ".free: a <b> 'c' &lt; x|y" },
  ]);
});

test("anything is a block of something", () => {
  assert.deepEqual(blocksOf("\n \n"), []);
  assert.deepEqual(blocksOf("  indented\n####### seven\n|"), [
    { kind: "paragraph", text: "  indented" },
    { kind: "paragraph", text: "####### seven" },
    { kind: "table", rows: [] },
  ]);
});
