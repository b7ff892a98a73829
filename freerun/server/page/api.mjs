/** Requests to the server: the API key, patience with a busy or unreachable server, and errors in its own words. */

/** Milliseconds before the second attempt; each further wait is twice as long. */
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
/** Statuses of a server that is busy, and of a proxy whose server is gone. */
const BUSY = [429, 503];
const GONE = [502, 504];
const UNAUTHORIZED = 401;

/** The server rejected a request: its explanation, if it gave one, and the limit that was exceeded, if any. */
export class Problem extends Error {
  constructor(status, detail = "", limit = undefined, maximum = NaN) {
    super(detail || `status ${status}`);
    Object.assign(this, { status, detail, limit, maximum });
  }
}

export class Api {
  #fetch;
  #key;
  #onWait;
  #sleep;
  #failures = 0;

  /**
   * @param {{value: string | null, ask: (rejected: boolean) => Promise<boolean>}} key the API key; `ask` changes it, and
   *   returns false if the user declines
   * @param {(wait: {milliseconds: number, busy: boolean} | null) => void} onWait is called for each wait, and
   *   with null when there is none any longer
   * @param {typeof globalThis.fetch} [fetch]
   * @param {(milliseconds: number, signal: AbortSignal) => Promise<void>} [sleep]
   */
  constructor({ key, onWait, fetch = (...request) => globalThis.fetch(...request), sleep = pause }) {
    this.#fetch = fetch;
    this.#key = key;
    this.#onWait = onWait;
    this.#sleep = sleep;
  }

  /** Return the JSON at a path that is relative to the page. */
  async get(path, signal) {
    const { content } = await this.#send(path, { signal });
    return content;
  }

  /** Return the JSON answer to `body`, and how long it took without waits: {content, milliseconds}. */
  post(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    return this.#send(path, { method: "POST", body: JSON.stringify(body), headers, signal });
  }

  async #send(path, options) {
    for (;;) {
      const key = this.#key.value;
      const answer = await this.#attempt(path, withKey(options, key));
      options.signal?.throwIfAborted();
      if (answer?.status === UNAUTHORIZED) await this.#renewKey(key, answer);
      else if (answer === null || GONE.includes(answer.status)) await this.#wait(this.#backoff(), false, options.signal);
      else if (BUSY.includes(answer.status)) await this.#wait(answer.retryAfter ?? this.#backoff(), true, options.signal);
      else return this.#content(answer);
    }
  }

  /** Return the server's answer, null if there was none. */
  async #attempt(path, options) {
    const began = performance.now();
    try {
      const response = await this.#fetch(path, options);
      const text = await response.text();
      const milliseconds = performance.now() - began;
      return { ok: response.ok, status: response.status, text, milliseconds, retryAfter: retryAfter(response.headers) };
    } catch {
      return null;
    }
  }

  #content({ ok, status, text, milliseconds }) {
    this.#failures = 0;
    this.#onWait(null);
    const content = parsed(text);
    if (!ok) throw problemOf(status, content);
    if (content === undefined) throw new Problem(status);
    return { content, milliseconds };
  }

  async #renewKey(used, { status, text }) {
    this.#onWait(null);
    if (used !== this.#key.value) return; // changed since this request began
    if (!(await this.#key.ask(used !== null))) throw problemOf(status, parsed(text));
  }

  async #wait(milliseconds, busy, signal) {
    this.#onWait({ milliseconds, busy });
    await this.#sleep(milliseconds, signal);
  }

  /** Requests share the count: each key press begins a new one, which does not mean that the server is back. */
  #backoff() {
    const wait = Math.min(FIRST_WAIT * 2 ** this.#failures, LONGEST_WAIT);
    this.#failures += 1;
    return wait;
  }
}

function withKey(options, key) {
  return key === null ? options : { ...options, headers: { ...options.headers, Authorization: `Bearer ${key}` } };
}

/** Return the milliseconds of a Retry-After header (seconds or a date), null without one. */
export function retryAfter(headers, now = Date.now()) {
  const value = headers.get("Retry-After");
  const wait = /^\d+$/.test(value ?? "") ? Number(value) * 1000 : Date.parse(value ?? "") - now;
  return Number.isNaN(wait) ? null : Math.max(wait, FIRST_WAIT);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function problemOf(status, content) {
  const detail = [content?.detail, content?.title].find((each) => typeof each === "string") ?? "";
  return new Problem(status, detail, content?.limit, Number(content?.maximum));
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** One request at a time: a newer one aborts the older one. */
export class Latest {
  #controller = null;

  /** Return the result of `task(signal)`, undefined if it was aborted. */
  async run(task) {
    this.stop();
    const { signal } = (this.#controller = new AbortController());
    try {
      const result = await task(signal);
      return signal.aborted ? undefined : result;
    } catch (error) {
      if (!signal.aborted) throw error;
      return undefined;
    }
  }

  /** Abort the running task. */
  stop() {
    this.#controller?.abort();
  }
}
