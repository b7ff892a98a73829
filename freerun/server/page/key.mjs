/** The API key: asked for in a dialog, kept in this tab only. */

import { at } from "./elements.mjs";
import { recall, remember } from "./memory.mjs";

const STORAGE = ["sessionStorage", "freerun.key"];
/** Characters that a header may have. */
const SENDABLE = /^[\x21-\x7e]+$/;

export class Key {
  /** The key, null if there is none. */
  value = recall(...STORAGE);
  #asking = null;
  #answer;
  #declined = false;
  #say;

  constructor(say) {
    this.#say = say;
    at("key-dialog").addEventListener("close", () => this.#close());
    at("key-cancel").addEventListener("click", () => at("key-dialog").close());
    at("key-form").addEventListener("submit", (event) => this.#submit(event));
  }

  /** Ask for the key, once for all requests that need it; resolves to false if the user declines, or has before. */
  async ask(wasRejected) {
    if (this.#declined) return false;
    this.#asking ??= this.#open(wasRejected);
    return this.#asking;
  }

  /** Ask again, even if the user has declined before. */
  reconsider() {
    this.#declined = false;
  }

  #open(wasRejected) {
    at("key-note").textContent = wasRejected ? this.#say.keyRejected : "";
    at("key").value = "";
    at("key-dialog").returnValue = "";
    at("key-dialog").showModal();
    return new Promise((resolve) => (this.#answer = resolve));
  }

  #submit(event) {
    event.preventDefault();
    const key = at("key").value.trim();
    if (SENDABLE.test(key)) at("key-dialog").close(key);
    else at("key-note").textContent = this.#say.keyCharacters;
  }

  #close() {
    const key = at("key-dialog").returnValue;
    at("key").value = at("key-dialog").returnValue = "";
    if (key) remember(...STORAGE, (this.value = key));
    this.#declined = key === "";
    this.#asking = null;
    this.#answer?.(key !== "");
  }
}
