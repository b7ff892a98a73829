/**
 * Build the page: BUNDLE=path npm run build
 *
 *   BUNDLE    the exported bundle, or a run directory with one; without it, the page has no model
 *   EXAMPLES  example texts, separated by |
 *   OUT       the output directory; default: dist
 */

import { access, cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const ORT = path.join(HERE, "node_modules", "onnxruntime-web");
const PAGE = ["index.html", "style.css", "page", "freerun"];
/** The page of `freerun serve`, and what both pages have in common. */
const SERVED = path.join(HERE, "..", "..", "freerun", "server", "page");
const SHARED = ["base.css", "elements.mjs", "english.mjs", "icon.svg", "outputs.mjs", "words.mjs"];
const RUNTIME = {
  "ort.mjs": "dist/ort.wasm.bundle.min.mjs",
  "ort.wasm": "dist/ort-wasm-simd-threaded.wasm",
  "package.json": "package.json", // names the author, version and license
};
const VOCABULARIES = ["source_vocabulary.json", "target_vocabulary.json", "feature_vocabulary.json"];
/** Without greedy.onnx: the page searches with the other two graphs. */
const BUNDLE = ["config.json", ...VOCABULARIES, "encoder.onnx", "step.onnx"];
const QUANTISED = ["encoder.int8.onnx", "step.int8.onnx"];

async function build(out, bundle, examples) {
  if (!(await exists(ORT))) throw new Error("onnxruntime-web is not installed: run npm ci first");
  const files = bundle ? await filesOf(bundle) : [];
  await mkdir(out, { recursive: true });
  // remove only files of earlier builds: the directory may contain others
  await Promise.all([...PAGE, "shared", "ort", "model"].map((name) => rm(path.join(out, name), { recursive: true, force: true })));
  await Promise.all(PAGE.map((name) => cp(path.join(HERE, name), path.join(out, name), { recursive: true })));
  await Promise.all(SHARED.map((name) => cp(path.join(SERVED, name), path.join(out, "shared", name))));
  await Promise.all(Object.entries(RUNTIME).map(([to, from]) => cp(path.join(ORT, from), path.join(out, "ort", to))));
  await Promise.all(files.map((file) => cp(file, path.join(out, "model", path.basename(file)))));
  await writeFile(path.join(out, "examples.json"), JSON.stringify(examples));
}

/** Return the files of a bundle that the page needs. */
async function filesOf(folder) {
  const bundle = (await exists(path.join(folder, "config.json"))) ? folder : path.join(folder, "best");
  if (!(await exists(path.join(bundle, "config.json")))) {
    throw new Error(`${folder}: there is no config.json in it. Expected an exported bundle. Check the path.`);
  }
  const { files } = JSON.parse(await readFile(path.join(bundle, "config.json"), "utf8"));
  if (!("step.onnx" in files)) {
    throw new Error(`${folder}: this bundle has no graphs. Expected an exported bundle. Run: freerun export ${folder}`);
  }
  const wanted = [...BUNDLE, ...QUANTISED].filter((name) => name === "config.json" || name in files);
  return wanted.map((name) => path.join(bundle, name));
}

async function exists(file) {
  return access(file).then(
    () => true,
    () => false,
  );
}

const { OUT, BUNDLE: bundle, EXAMPLES } = process.env;
const out = path.resolve(OUT ?? path.join(HERE, "dist"));
try {
  await build(out, bundle, EXAMPLES ? EXAMPLES.split("|") : []);
  console.log(`${out} is built${bundle ? "" : ", without a model: give one with BUNDLE=path"}`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
