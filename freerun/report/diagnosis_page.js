// The example explorer. Text from the data is set as textContent, never as innerHTML.
"use strict";
(() => {
  const examples = JSON.parse(document.getElementById("examples").textContent);
  const body = document.getElementById("rows"), filter = document.getElementById("filter");
  const headers = [...document.querySelectorAll("th[data-key]")];
  let chosen = null, key = null, descending = false;

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // an element with the source, and its features if the model reads any
  function sourceIn(name, example) {
    const made = element(name, example.source);
    if (example.features !== null) made.append(" ", element("span", example.features, "soft"));
    return made;
  }

  // -1, 0 or 1; missing values come last in both orders
  function compare(a, b) {
    const x = a[key], y = b[key];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return descending ? -order : order;
  }

  function shown() {
    const text = filter.value.toLowerCase();
    const found = examples.filter((each) =>
      [each.source, each.features ?? "", each.output, ...each.references].some((one) => one.toLowerCase().includes(text)));
    return key === null ? found : found.slice().sort(compare);
  }

  function list() {
    body.replaceChildren(...shown().map((example) => {
      const row = element("tr");
      row.tabIndex = 0;
      row.setAttribute("aria-selected", example === chosen);
      row.append(sourceIn("td", example), element("td", example.output + (example.truncated ? " …" : "")),
        element("td", example.edits, "number"), element("td", example.firstError ?? "–", "number"),
        element("td", example.nll.toFixed(2), "number"));
      row.addEventListener("click", () => choose(example));
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(example); });
      return row;
    }));
    document.getElementById("count").textContent = `${body.children.length} of ${examples.length} examples`;
  }

  function sortBy(header) {
    const same = key === header.dataset.key;
    descending = same ? !descending : header.dataset.first === "descending";
    key = header.dataset.key;
    headers.forEach((each) => each.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    list();
  }

  // the tokens of one row; places are indices into them, -1 for a gap in the alignment
  function tokenRow(name, tokens, places, errors, probabilities, first) {
    const row = element("tr");
    row.append(element("th", name));
    for (const place of places) {
      const cell = element("td", place < 0 ? "·" : tokens[place], place < 0 ? "gap" : "");
      if (place >= 0 && errors && errors[place]) cell.classList.add("error");
      if (place >= 0 && place === first) { cell.classList.add("first"); cell.title = "first error"; }
      // an unknown token has no probability of its own
      if (place >= 0 && probabilities && probabilities[place] !== null) shade(cell, probabilities[place], "probability");
      row.append(cell);
    }
    return row;
  }

  function shade(cell, percent, what) {
    cell.style.background = `rgba(var(--shade), ${(percent / 100 * 0.75).toFixed(3)})`;
    cell.title = `${cell.title ? cell.title + ", " : ""}${what} ${percent} %`;
  }

  function attention(example) {
    const table = element("table", undefined, "tokens"), head = element("tr");
    head.append(element("th", "output ↓ source →"), ...example.sourceTokens.map((token) => element("th", token)));
    table.append(head);
    example.attention.forEach((weights, step) => {
      const row = element("tr");
      row.append(element("th", example.free[step]));
      for (const weight of weights) {
        const cell = element("td", weight >= 10 ? weight : "");
        shade(cell, weight, "weight");
        row.append(cell);
      }
      table.append(row);
    });
    return table;
  }

  function scrolling(table) {
    const box = element("div", undefined, "scroll");
    box.append(table);
    return box;
  }

  function choose(example) {
    chosen = example;
    const table = element("table", undefined, "tokens");
    const first = example.firstError === null ? -1 : example.firstError - 1;
    const right = example.columns.map((column) => column[0]), free = example.columns.map((column) => column[1]);
    table.append(tokenRow("reference", example.reference, right, null, null, -1),
      tokenRow("teacher-forced", example.forced, right, example.forcedError, example.forcedProbability, -1),
      tokenRow("free-running", example.free, free, example.freeError, example.freeProbability, first));
    const detail = document.getElementById("detail");
    detail.replaceChildren(sourceIn("h3", example), scrolling(table));
    if (example.references.length > 1) {
      detail.append(element("p", "All references: " + example.references.join(" | "), "soft"));
    }
    if (example.shown) detail.append(element("p", `Only the first ${example.shown} tokens are shown.`, "soft"));
    if (example.truncated) detail.append(element("p", "The length bound truncated this output.", "soft"));
    if (example.attention) detail.append(element("h3", "Attention"), scrolling(attention(example)));
    list();
  }

  headers.forEach((header) => header.querySelector("button").addEventListener("click", () => sortBy(header)));
  filter.addEventListener("input", list);
  if (examples.length) choose(examples[0]); else list();
})();
