/** The page's texts in English. korean.mjs has the same keys. */

const count = (number) => number.toLocaleString("en");
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

export const english = {
  language: "en",

  // the model
  loading: "Loading the model",
  noModel: "No model",
  noModels: "The server has no models.",
  model: "Model",
  layers: (layers, units) => `${plural(layers, "layer", "layers")} of ${units} units`,
  withAttention: (kind) => `, ${kind} attention`,
  mapping: (read, hasFeatures, written) => `${hasFeatures ? `${read} and features` : read} to ${written}`,
  tokenKind: (tokens) => ({ char: "characters", whitespace: "space-separated tokens" })[tokens] ?? "subwords",

  // input
  source: "Source",
  typeHere: "Type here",
  featuresField: "Features",
  spaces: "spaces",
  none: "none",
  features: (separator, names) => `Separated by ${separator}. Known: ${names}.`,
  andOthers: (names, others) => `${names} and ${plural(others, "other", "others")}`,
  unknown: (tokens) => `${tokens}: not in the model’s vocabulary, so mapped to UNK.`,
  unknownFeatures: (tokens) => `${tokens}: not among the model’s features, so mapped to UNK.`,
  writeInCase: (name) => `Change to ${name} case`,
  showNumbers: "Show probabilities as numbers",
  outputCount: "Outputs",
  beamSize: "Beam size",

  // outputs
  outputs: "Outputs",
  truncated: "truncated at the length bound",
  theEnd: "the end",
  probabilityIs: (percent) => `probability ${percent}`,
  outputProbability: "probability of this output",
  bestOutput: (text, percent) => `Best output: ${text}, probability ${percent}`,
  milliseconds: (number) => `${number} ms`,
  shading: "Shading: a token’s probability,",
  endOfOutput: "⏎: end of output",
  bar: "Bar: probability of the complete output",

  // attention
  attention: "Attention",
  attentionOf: (rank) => `Show the attention of output ${rank}`,
  attentionCaption: (rank) =>
    `Output ${rank}: how much attention each of its tokens (rows) pays to each source token (columns). ` +
    "The stronger the color, the more attention.",
  attentionTooLarge: "This output and its source are too long to show the attention.",

  // many lines
  manyLines: "Many lines",
  lines: "Sources, one per line",
  linesHelp: "Every line is one text.",
  linesFeatures: "A line may have its own features after a tab; other lines use the features below.",
  predictLines: "Predict all lines",
  cancel: "Cancel",
  progress: (done, all) => `${count(done)} of ${plural(all, "line", "lines")}`,
  finished: (all) => `Done: ${plural(all, "line", "lines")}`,
  canceled: (done, all) => `Canceled after ${count(done)} of ${plural(all, "line", "lines")}`,
  noLines: "Enter at least one line.",
  output: "Output",
  probability: "Probability",
  note: "Note",
  copyTsv: "Copy as TSV",
  copied: "Copied",
  notCopied: "The browser did not allow copying. Select the table and copy it.",
  firstRows: (shown) => `The table shows the first ${plural(shown, "line", "lines")}; copying includes all.`,

  // about the model
  about: "About this model",
  metrics: "Metrics",
  metric: "Metric",
  value: "Value",
  interval: "95% interval",
  undefinedValue: "undefined",
  card: "Model card",
  parameters: "Parameters",
  runtime: "Runtime",
  sourceTokens: "Source tokens",
  targetTokens: "Target tokens",
  featureTokens: "Features",
  vocabularySize: (kind, size) => `${kind}, vocabulary of ${count(size)}`,
  digest: "Digest",

  // the server
  unreachable: "The server cannot be reached; trying again.",
  busy: (seconds) => `The server is busy; trying again in ${count(seconds)} s.`,
  status: (status) => `The server answered with status ${status}.`,
  exceeded: (limit, maximum) =>
    ({
      "max-bytes": "This text is too long.",
      "max-characters": `Too long: at most ${count(maximum)} characters are allowed.`,
      "max-tokens": `Too long: at most ${count(maximum)} tokens are allowed.`,
      "max-cost": "This text is too long for this beam size. Use a smaller one, or a shorter text.",
      "max-output-tokens": "The outputs may become too long. Use fewer outputs, or a shorter text.",
      "max-weights": "There is too much attention to show. Use fewer outputs, or a shorter text.",
    })[limit],
  badAnswer: "The server’s answer is not what this page expects. Reload the page.",
  unexpected: (message) => `Unexpected error: ${message}. Reload the page.`,
  keyTitle: "API key",
  keyNeeded: "This server requires an API key. The key is kept in this tab only.",
  keyRejected: "The server did not accept this key.",
  keyCharacters: "A key has only ASCII letters, digits and signs, without spaces.",
  keyLabel: "Key",
  keyUse: "Use this key",
  keyEnter: "Enter an API key",

  // settings of the page, and links
  apiDocs: "API documentation",
  colors: "Colors",
  colorsSystem: "System",
  colorsLight: "Light",
  colorsDark: "Dark",
};
