/** One prediction at a time: a newer request ends the older one. */

import { Superseded } from "../freerun/errors.mjs";

/** Maximum time without handling key presses, in milliseconds. */
const MAX_BUSY = 8;

export class Latest {
  #newest = 0;
  #running = Promise.resolve();

  /**
   * Run `task(pause)` after the previous task has ended; `pause` throws `Superseded` if there is a newer one.
   * Resolves to undefined in that case. A session of onnxruntime must not run twice at the same time.
   */
  run(task) {
    const number = ++this.#newest;
    const pause = pauseUnless(() => number !== this.#newest);
    const result = this.#running.then(async () => {
      await pause();
      const result = await task(pause);
      await pause();
      return result;
    });
    this.#running = result.catch(() => undefined);
    return result.catch(forgiven);
  }

  /** End the running task. */
  stop() {
    this.#newest += 1;
  }
}

function forgiven(error) {
  if (!(error instanceof Superseded)) throw error;
}

/** The model runs on the page's own thread, so key presses are handled between its steps. */
function pauseUnless(superseded) {
  let since = performance.now();
  return async () => {
    if (performance.now() - since > MAX_BUSY) {
      await turn();
      since = performance.now();
    }
    if (superseded()) throw new Superseded();
  };
}

/** Wait until the browser has handled pending events: with a message, because timers wait at least 4 ms. */
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
