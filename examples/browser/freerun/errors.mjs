/** What can go wrong, told as freerun tells it: where, what, what was expected, and how to mend it. */

/** The bundle cannot be used. */
export class BundleError extends Error {
  constructor(where, what, expected, fix) {
    super(`${where}: ${what}. ${expected}. ${fix}.`);
    this.name = "BundleError";
  }
}

/** The text cannot be used. */
export class TextError extends Error {
  name = "TextError";
}

/** A newer request took the place of this one. */
export class Superseded extends Error {
  name = "Superseded";
}
