/** Errors in freerun's format: where, what is wrong, what is expected, and how to fix it. */

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

/** A newer request replaced this one. */
export class Superseded extends Error {
  name = "Superseded";
}
