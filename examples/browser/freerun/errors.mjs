/** Errors in freerun's format: where, what is wrong, what is expected, and how to fix it. */

/** Anything that the user of a model can fix. */
export class FreerunError extends Error {
  constructor(where, what, expected, fix) {
    super(`${where}: ${what}. ${expected}. ${fix}.`);
    this.name = new.target.name;
  }
}

/** The bundle cannot be used. */
export class BundleError extends FreerunError {}

/** The source cannot be used. */
export class SourceError extends FreerunError {}

/** A newer request replaced this one. */
export class Superseded extends Error {
  name = "Superseded";
}
