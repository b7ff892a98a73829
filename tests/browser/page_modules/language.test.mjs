import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";

import { english } from "../../../freerun/server/page/english.mjs";
import { korean } from "../../../freerun/server/page/korean.mjs";
import { dictionaryFor, translate } from "../../../freerun/server/page/language.mjs";

const shape = (dictionary) => Object.entries(dictionary).map(([key, value]) => [key, typeof value, value.length * (typeof value === "function")]);

test("the dictionaries have the same keys, and functions of the same parameters", () => {
  assert.deepEqual(shape(korean), shape(english));
});

/** The page's files with these endings. */
async function filesOf(...endings) {
  const folder = new URL("../../../freerun/server/page/", import.meta.url);
  const names = (await readdir(folder)).filter((name) => endings.some((ending) => name.endsWith(ending)));
  return Promise.all(names.map((name) => readFile(new URL(name, folder), "utf8")));
}

test("every text that the page names is in the dictionaries, and every text is used", async () => {
  const names = (await filesOf("index.html", ".mjs")).flatMap((text) => [...text.matchAll(/(?:\bsay\.|data-say(?:-hint)?=")(\w+)/g)]);
  const used = new Set(names.map(([, key]) => key));
  assert.deepEqual([...used].sort(), Object.keys(english).sort());
});

test("all addresses are relative, so that the page may be anywhere", async () => {
  for (const text of await filesOf("index.html", ".mjs", ".css")) {
    assert.doesNotMatch(text, /https?:|(?:href|src)="\/|url\(|(?:get|post|fetch)\(["`]\//);
  }
});

test("the first language with a dictionary is chosen, English without any", () => {
  const chosen = (...languages) => dictionaryFor(languages).language;
  assert.equal(chosen("ko-KR", "en"), "ko");
  assert.equal(chosen("de", "ko"), "ko");
  assert.equal(chosen("en-GB", "ko"), "en");
  assert.equal(chosen("de"), "en");
  assert.equal(chosen(), "en");
});

test("a document is translated", () => {
  const [text, hint] = [{ dataset: { say: "source" } }, { dataset: { sayHint: "typeHere" } }];
  const page = { documentElement: {}, querySelectorAll: (selector) => (selector === "[data-say]" ? [text] : [hint]) };
  translate(page, korean);
  assert.deepEqual([page.documentElement.lang, text.textContent, hint.placeholder], ["ko", "입력", "여기에 입력하세요"]);
});

test("limits that a person can exceed have words in every language", () => {
  const limits = ["max-bytes", "max-characters", "max-tokens", "max-cost", "max-output-tokens", "max-weights"];
  for (const say of [english, korean]) {
    for (const limit of limits) assert.doesNotMatch(say.exceeded(limit, 1000), /text 1|_|max-|undefined/);
    assert.equal(say.exceeded("max-length", 1000), undefined);
  }
  assert.equal(english.exceeded("max-tokens", 1000), "Too long: at most 1,000 tokens are allowed.");
});

test("numbers are singular, plural and grouped", () => {
  assert.equal(english.finished(1), "Done: 1 line");
  assert.equal(english.progress(50, 1200), "50 of 1,200 lines");
  assert.equal(korean.progress(50, 1200), "1,200줄 중 50줄 완료");
});
