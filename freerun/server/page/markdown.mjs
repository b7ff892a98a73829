/** The Markdown of a model card as blocks: headings, tables, lists, code and paragraphs. All of it stays text. */

const ENTITIES = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#34;": '"', "&#39;": "'", "&amp;": "&" };

/**
 * Return the blocks of a text.
 *
 * @returns {{kind: "heading" | "table" | "list" | "code" | "paragraph", level?: number, text?: string, rows?: string[][],
 *   items?: string[]}[]}
 */
export function blocksOf(markdown) {
  const blocks = [];
  const lines = markdown.split(/\r?\n/);
  while (lines.length > 0) {
    const rule = RULES.find(({ starts }) => starts.test(lines[0]));
    if (!rule) lines.shift(); // empty
    else blocks.push(rule.block(taken(lines, rule)));
  }
  return blocks;
}

const RULES = [
  { starts: /^#{1,6} /, continues: null, block: ([line]) => heading(line) },
  { starts: /^\|/, continues: /^\|/, block: (lines) => ({ kind: "table", rows: lines.filter(notRule).map(cells) }) },
  { starts: /^[-*] /, continues: /^([-*] |  )/, block: (lines) => ({ kind: "list", items: itemsOf(lines) }) },
  { starts: /^ {4}/, continues: /^ {4}/, block: (lines) => ({ kind: "code", text: plain(lines.map(unindented).join("\n")) }) },
  { starts: /\S/, continues: /^[^\s|#]/, block: (lines) => ({ kind: "paragraph", text: plain(lines.join(" ")) }) },
];

/** Remove the lines of a block from the beginning of `lines`, and return them. */
function taken(lines, { continues }) {
  let length = 1;
  while (continues && length < lines.length && continues.test(lines[length])) length += 1;
  return lines.splice(0, length);
}

function heading(line) {
  const [, marks, text] = /^(#+) ([^]*)$/.exec(line);
  return { kind: "heading", level: marks.length, text: plain(text) };
}

function unindented(line) {
  return line.slice(4);
}

function notRule(line) {
  return !/^[|\s:-]+$/.test(line);
}

function cells(line) {
  return line.replace(/^\||\|\s*$/g, "").split(/(?<!\\)\|/).map((cell) => plain(cell.trim()));
}

function itemsOf(lines) {
  const items = lines.join("\n").split(/^[-*] /m).slice(1);
  return items.map((item) => plain(item.replace(/\s+/g, " ").trim()));
}

/** Return a text without marks and escapes. */
function plain(text) {
  return text
    .replace(/\*\*|`/g, "")
    .replace(/\\([|*_`\\])/g, "$1")
    .replace(/&(lt|gt|quot|amp|#34|#39);/g, (entity) => ENTITIES[entity]);
}
