/** Why the server rejected a text. */

/**
 * Return the reason and its language: the page's, if it has words for the limit that was exceeded; else the server's.
 *
 * @param {{status: number, detail: string, limit?: string, maximum: number}} problem
 * @param {object} say the dictionary of the page's language
 * @returns {{text: string, language: string}}
 */
export function rejectionOf({ status, detail, limit, maximum }, say) {
  const text = say.exceeded(limit, maximum) ?? (detail ? "" : say.status(status));
  return text ? { text, language: say.language } : { text: detail, language: "en" };
}
