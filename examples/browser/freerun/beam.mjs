/**
 * Beam search over one source, like freerun/search/beam.py without a length penalty.
 *
 * Of all candidates of a step, those with EOS among the K best are finished, and the K best others stay active. Ties go
 * to the higher score, then the lowest token, then the better parent. The search ends when K hypotheses are finished and
 * no active one can beat the K-th of them, because scores only decrease.
 */

import { BOS, EOS } from "./vocabulary.mjs";

/**
 * @typedef {{ids: number[], scores: number[], score: number, truncated: boolean}} Hypothesis
 *   ids without EOS; a log-probability for each and, unless truncated, for EOS; their sum
 */

/**
 * Return at most `beamSize` hypotheses, best first, truncated ones last.
 *
 * @param {{writable: number, step: Function}} stepper `step(tokens, origins, width)` feeds a token to each row, which
 *   continues the row `origins[n]` of the step before, and resolves to `{ids, logProbs}`: flat, `width` a row, best first
 * @param {number} beamSize K
 * @param {number} bound maximum output length in tokens, without EOS
 * @param {() => Promise<void>} pause awaited before every step; an exception in it ends the search
 * @returns {Promise<Hypothesis[]>}
 */
export async function beamSearch(stepper, beamSize, bound, pause = async () => {}) {
  // one more than K: a row's EOS may leave, and K others must remain to refill the beam
  const width = Math.min(beamSize + 1, stepper.writable);
  const ended = [];
  let rows = [{ ids: [], scores: [], score: 0, truncated: false }];
  let [tokens, origins] = [[BOS], [0]];
  for (let written = 0; rows.length > 0; written += 1) {
    await pause();
    const candidates = ranked(rows, await stepper.step(tokens, origins, width), width);
    const ending = candidates.slice(0, beamSize).filter((each) => each.token === EOS);
    const living = candidates.filter((each) => each.token !== EOS).slice(0, beamSize);
    ended.push(...ending.map((each) => extended(rows[each.parent], each, [])));
    if (written >= bound) {
      const finished = new Set(ending.map((each) => each.parent));
      ended.push(...rows.filter((_, n) => !finished.has(n)).map((row) => ({ ...row, truncated: true })));
    }
    const next = written >= bound || isDone(ended, living, beamSize) ? [] : living;
    rows = next.map((each) => extended(rows[each.parent], each, [each.token]));
    tokens = next.map((each) => each.token);
    origins = next.map((each) => each.parent);
  }
  return ended.sort((a, b) => a.truncated - b.truncated || b.score - a.score).slice(0, beamSize);
}

/** Return all candidates of a step, best first. */
function ranked(rows, { ids, logProbs }, width) {
  const candidates = Array.from(ids, (token, n) => {
    const parent = Math.floor(n / width);
    return { parent, token, logProb: logProbs[n], score: rows[parent].score + logProbs[n] };
  });
  // the sort is stable and candidates are ordered by parent, which breaks the last tie
  return candidates.sort((a, b) => descending(a.score, b.score) || a.token - b.token);
}

/** Like b - a, but 0 for two equal infinities. */
function descending(a, b) {
  return a === b ? 0 : b - a;
}

function extended(row, { logProb, score }, ids) {
  return { ids: [...row.ids, ...ids], scores: [...row.scores, logProb], score, truncated: false };
}

/** Return true if no active candidate can still be among the K best. */
function isDone(ended, living, beamSize) {
  const best = ended.map((each) => each.score).sort(descending);
  // while fewer than K are finished, every candidate with a probability above 0 continues
  return living.length === 0 || living[0].score <= (best[beamSize - 1] ?? -Infinity);
}
