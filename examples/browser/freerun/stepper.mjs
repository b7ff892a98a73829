/** encoder.onnx and step.onnx as a stepper for searches over one source. */

import { PAD } from "./vocabulary.mjs";

const CHANGING = new Set(["tokens", "origins", "state", "k"]);

export class OnnxStepper {
  /**
   * @param ort onnxruntime-web or onnxruntime-node: their interface is the same
   * @param encoder an InferenceSession of encoder.onnx
   * @param step an InferenceSession of step.onnx
   * @param {number} vocabularySize target ids
   */
  constructor(ort, encoder, step, vocabularySize) {
    Object.assign(this, { ort, encoder, decoder: step });
    /** Number of ids that a search may write: all except PAD, BOS and UNK. */
    this.writable = vocabularySize - 3;
  }

  /** Read a source, as `Bundle.encode` returns it. */
  async start(source) {
    const encoded = await this.encoder.run(sourceInputs(this.ort, source));
    this.state = encoded.state;
    // static tensors; the rows of a beam share their single entry
    const names = this.decoder.inputNames.filter((name) => !CHANGING.has(name));
    this.fixed = Object.fromEntries(names.map((name) => [name, encoded[name]]));
  }

  /** See `beamSearch`. */
  async step(tokens, origins, width) {
    const { ort } = this;
    const inputs = {
      ...this.fixed,
      state: this.state,
      tokens: int64(ort, tokens, [tokens.length]),
      origins: int64(ort, origins, [origins.length]),
      k: int64(ort, [width], [1]),
    };
    const outputs = await this.decoder.run(inputs, ["new_state", "ids", "best"]);
    this.state = outputs.new_state;
    return { ids: Array.from(outputs.ids.data, Number), logProbs: outputs.best.data };
  }
}

/** Return the inputs of encoder.onnx and greedy.onnx for one source, as `Bundle.encode` returns it. */
export function sourceInputs(ort, { ids, features }) {
  const inputs = { source: int64(ort, ids, [1, ids.length]), lengths: int64(ort, [ids.length], [1]) };
  if (features === null) return inputs;
  const padded = features.length > 0 ? features : [PAD]; // the graphs need at least one position
  return { ...inputs, features: int64(ort, padded, [1, padded.length]) };
}

/** Return a tensor of integers. */
export function int64(ort, numbers, shape) {
  return new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);
}
