/** The bundle's files, in the directory model/ next to the page. */

import { BundleError } from "../freerun/errors.mjs";

const FOLDER = new URL("../model/", import.meta.url);

/** Return a file of the bundle. */
export async function read(name) {
  let response;
  try {
    response = await fetch(new URL(name, FOLDER));
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    throw new BundleError(name, `could not be fetched (${error.message})`, "Expected a server that answers", AGAIN);
  }
  throw name === "config.json" && response.status === 404 ? noBundle() : notServed(name, response.status);
}

const AGAIN = "Check the connection and load the page again";

function noBundle() {
  const fix = "Build the page with one: BUNDLE=path npm run build";
  return new BundleError("model/", "there is no bundle next to this page", "Expected an exported bundle", fix);
}

function notServed(name, status) {
  const fix = "Build the page again";
  return new BundleError(name, `could not be fetched (status ${status})`, "Expected a complete bundle", fix);
}

/** Return the example texts of the build, if any. */
export async function readExamples() {
  const response = await fetch(new URL("../examples.json", import.meta.url));
  return response.ok ? response.json() : [];
}
