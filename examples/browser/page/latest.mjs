/** One prediction at a time: a newer request ends the older one. */

import { Superseded } from "../freerun/errors.mjs";

/** So long the page may be deaf to keys (milliseconds). */
const MOST_BUSY = 8;

export class Latest {
  #newest = 0;
  #running = Promise.resolve();

  /**
   * Run `task(pause)` after the one before it has ended; `pause` throws `Superseded` when there is a newer one.
   * Resolves to undefined where that happened. A session of onnxruntime must not be run twice at a time.
   */
  run(task) {
    const number = ++this.#newest;
    const pause = pauseUnless(() => number !== this.#newest);
    const result = this.#running.then(async () => {
      await pause();
      const found = await task(pause);
      await pause();
      return found;
    });
    this.#running = result.catch(() => undefined);
    return result.catch(forgiven);
  }

  /** End what is running. */
  stop() {
    this.#newest += 1;
  }
}

function forgiven(error) {
  if (!(error instanceof Superseded)) throw error;
}

/** The model computes on the page's own thread, so keys are let in between its steps. */
function pauseUnless(superseded) {
  let since = performance.now();
  return async () => {
    if (performance.now() - since > MOST_BUSY) {
      await turn();
      since = performance.now();
    }
    if (superseded()) throw new Superseded();
  };
}

/** Until the browser has dealt with what waits: a message, because timers wait 4 ms at least. */
function turn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
