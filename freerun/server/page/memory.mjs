/** What the browser remembers for the page; a browser that forbids it remembers nothing. */

/** Return an item of "sessionStorage" or "localStorage", null without one. */
export function recall(storage, item) {
  try {
    return globalThis[storage].getItem(item);
  } catch {
    return null;
  }
}

/** Store an item. */
export function remember(storage, item, value) {
  try {
    globalThis[storage].setItem(item, value);
  } catch {
    // the page works without
  }
}
