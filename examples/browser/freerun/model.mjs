/** The interface for programs that use a model: texts in, outputs out. */

import { beamSearch } from "./beam.mjs";
import { BundleError } from "./errors.mjs";
import { OnnxStepper, int64, sourceInputs } from "./stepper.mjs";
import { EOS, PAD } from "./vocabulary.mjs";

/** One thread: in a browser, more threads require cross-origin isolation, and small models gain nothing. */
const SESSION = { executionProviders: ["cpu"], intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4 };

/** `model(text, features)` gives the greedy output as text: `greedy.onnx` alone. See `Bundle.encode` for `features`. */
export async function openGreedy(ort, bundle, precision = "fp32") {
  const session = await opened(ort, bundle, "greedy", precision);
  return async (text, features) => {
    const source = bundle.encode(text, features);
    const maxLengths = int64(ort, [bundle.lengthBound(source.tokens.length)], [1]);
    const outputs = await session.run({ ...sourceInputs(ort, source), max_lengths: maxLengths });
    const ids = Array.from(outputs.tokens.data, Number);
    const end = [...ids, EOS].findIndex((id) => id === EOS || id === PAD); // PAD marks truncation at the bound
    return bundle.target.text(bundle.target.decode(ids.slice(0, end)));
  };
}

/**
 * `model(text, features, beamSize, pause)` gives the n-best outputs: `encoder.onnx`, `step.onnx` and `beamSearch`.
 * See `Bundle.encode` for `features`.
 */
export async function openBeam(ort, bundle, precision = "fp32") {
  const [encoder, step] = await Promise.all(["encoder", "step"].map((name) => opened(ort, bundle, name, precision)));
  return async (text, features, beamSize, pause) => {
    const source = bundle.encode(text, features);
    const stepper = new OnnxStepper(ort, encoder, step, bundle.target.vocabulary.size);
    await stepper.start(source);
    const found = await beamSearch(stepper, beamSize, bundle.lengthBound(source.tokens.length), pause);
    return found.map((hypothesis) => readable(bundle.target, hypothesis));
  };
}

function readable(target, { ids, scores, score, truncated }) {
  const tokens = target.decode(ids);
  return { text: target.text(tokens), tokens, score, tokenScores: Array.from(scores), truncated };
}

async function opened(ort, bundle, name, precision) {
  const bytes = await bundle.graph(name, precision);
  try {
    return await ort.InferenceSession.create(bytes, SESSION);
  } catch (error) {
    const what = `onnxruntime cannot run this graph (${String(error.message).slice(0, 200)})`;
    throw new BundleError(`${name}.onnx`, what, "Expected a graph that freerun exported", "Export it again");
  }
}
