/** The page's texts in Korean. english.mjs has the same keys. */

const count = (number) => number.toLocaleString("ko");

export const korean = {
  language: "ko",

  // the model
  loading: "모델을 불러오는 중입니다",
  noModel: "모델 없음",
  noModels: "서버에 모델이 없습니다.",
  model: "모델",
  layers: (layers, units) => `층 ${count(layers)}개(층당 유닛 ${count(units)}개)`,
  withAttention: (kind) => `, ${kind} 어텐션`,
  mapping: (read, hasFeatures, written) => `${hasFeatures ? `${read} + 자질` : read} → ${written}`,
  tokenKind: (tokens) => ({ char: "문자", whitespace: "공백으로 나눈 토큰" })[tokens] ?? "서브워드",

  // input
  source: "입력",
  typeHere: "여기에 입력하세요",
  featuresField: "자질",
  spaces: "공백",
  none: "없음",
  features: (separator, names) => `구분 기호: ${separator}. 모델이 아는 자질: ${names}.`,
  andOthers: (names, others) => `${names} 외 ${count(others)}개`,
  unknown: (tokens) => `모델의 어휘에 없어 UNK로 처리한 토큰: ${tokens}`,
  unknownFeatures: (tokens) => `모델의 자질 목록에 없어 UNK로 처리한 자질: ${tokens}`,
  writeInCase: (name) => `${name === "lower" ? "소문자" : "대문자"}로 바꾸기`,
  showNumbers: "확률을 숫자로 표시",
  outputCount: "출력 개수",
  beamSize: "빔 크기",

  // outputs
  outputs: "출력",
  truncated: "길이 제한에서 잘림",
  theEnd: "끝",
  probabilityIs: (percent) => `확률 ${percent}`,
  outputProbability: "이 출력의 확률",
  bestOutput: (text, percent) => `가장 좋은 출력: ${text}, 확률 ${percent}`,
  milliseconds: (number) => `${number}ms`,
  shading: "음영: 토큰의 확률,",
  endOfOutput: "⏎: 출력의 끝",
  bar: "막대: 출력 전체의 확률",

  // attention
  attention: "어텐션",
  attentionOf: (rank) => `출력 ${rank}의 어텐션 보기`,
  attentionCaption: (rank) =>
    `출력 ${rank}: 각 출력 토큰(행)이 각 입력 토큰(열)에 얼마나 주목했는지 보여 줍니다. ` +
    "색이 진할수록 더 많이 주목했습니다.",
  attentionTooLarge: "입력과 출력이 너무 길어 어텐션을 표시할 수 없습니다.",

  // many lines
  manyLines: "여러 줄 입력",
  lines: "입력(한 줄에 하나씩)",
  linesHelp: "한 줄을 하나의 텍스트로 읽습니다.",
  linesFeatures: "줄마다 탭 뒤에 자질을 따로 적을 수 있습니다. 자질을 적지 않은 줄에는 아래의 자질을 사용합니다.",
  predictLines: "모든 줄 예측",
  cancel: "취소",
  progress: (done, all) => `${count(all)}줄 중 ${count(done)}줄 완료`,
  finished: (all) => `완료: ${count(all)}줄`,
  canceled: (done, all) => `취소됨: ${count(all)}줄 중 ${count(done)}줄 완료`,
  noLines: "한 줄 이상 입력하세요.",
  output: "출력",
  probability: "확률",
  note: "비고",
  copyTsv: "TSV로 복사",
  copied: "복사했습니다",
  notCopied: "브라우저가 복사를 허용하지 않았습니다. 표를 선택해서 직접 복사하세요.",
  firstRows: (shown) => `표에는 처음 ${count(shown)}줄만 표시합니다. 복사하면 모든 줄이 포함됩니다.`,

  // about the model
  about: "모델 정보",
  metrics: "평가 지표",
  metric: "지표",
  value: "값",
  interval: "95% 신뢰 구간",
  undefinedValue: "정의되지 않음",
  card: "모델 카드",
  parameters: "매개변수 수",
  runtime: "런타임",
  sourceTokens: "입력 토큰",
  targetTokens: "출력 토큰",
  featureTokens: "자질",
  vocabularySize: (kind, size) => `${kind}, 어휘 ${count(size)}개`,
  digest: "다이제스트",

  // the server
  unreachable: "서버에 연결할 수 없습니다. 다시 시도하고 있습니다.",
  busy: (seconds) => `서버가 바쁩니다. ${count(seconds)}초 뒤에 다시 시도합니다.`,
  status: (status) => `서버에서 오류가 발생했습니다(상태 코드 ${status}).`,
  exceeded: (limit, maximum) =>
    ({
      "max-bytes": "텍스트가 너무 깁니다.",
      "max-characters": `너무 깁니다. 최대 ${count(maximum)}자까지 입력할 수 있습니다.`,
      "max-tokens": `너무 깁니다. 토큰은 최대 ${count(maximum)}개까지 입력할 수 있습니다.`,
      "max-cost": "이 빔 크기를 쓰기에는 텍스트가 너무 깁니다. 빔 크기나 텍스트를 줄이세요.",
      "max-output-tokens": "출력이 너무 길어질 수 있습니다. 출력 개수나 텍스트를 줄이세요.",
      "max-weights": "표시할 어텐션이 너무 많습니다. 출력 개수나 텍스트를 줄이세요.",
    })[limit],
  badAnswer: "서버의 응답을 이해할 수 없습니다. 페이지를 새로 고치세요.",
  unexpected: (message) => `예상하지 못한 오류가 발생했습니다(${message}). 페이지를 새로 고치세요.`,
  keyTitle: "API 키",
  keyNeeded: "이 서버를 사용하려면 API 키가 필요합니다. 키는 이 탭에만 저장됩니다.",
  keyRejected: "서버가 이 키를 받아들이지 않았습니다.",
  keyCharacters: "키에는 ASCII 문자만 쓸 수 있고 공백은 쓸 수 없습니다.",
  keyLabel: "키",
  keyUse: "이 키 사용",
  keyEnter: "API 키 입력",

  // settings of the page, and links
  apiDocs: "API 문서",
  colors: "색상",
  colorsSystem: "시스템 설정",
  colorsLight: "밝게",
  colorsDark: "어둡게",
};
