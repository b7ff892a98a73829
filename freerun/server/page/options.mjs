/** The numbers of a search: how many outputs, and the size of the beam, which is at least that. */

import { at } from "./elements.mjs";

/** Let the fields accept at most `maximum`, and call `changed` when one of them has changed. */
export class Options {
  constructor(changed) {
    const adapt = (field, other, isRight) => {
      at(field).value = this.#number(field);
      if (!isRight()) at(other).value = at(field).value;
      changed();
    };
    const fits = () => this.numHypotheses <= this.beamSize;
    at("hypotheses").addEventListener("change", () => adapt("hypotheses", "beam", fits));
    at("beam").addEventListener("change", () => adapt("beam", "hypotheses", fits));
  }

  get numHypotheses() {
    return this.#number("hypotheses");
  }

  get beamSize() {
    return this.#number("beam");
  }

  /** Set the largest beam of a model. */
  limit(maximum) {
    for (const name of ["hypotheses", "beam"]) {
      at(name).max = maximum;
      at(name).value = this.#number(name);
    }
  }

  #number(name) {
    const { value, max } = at(name);
    return Math.min(Math.max(Math.trunc(Number(value)) || 1, 1), Number(max) || 1);
  }
}
