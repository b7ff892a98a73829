/** The language of the page, and its texts in the elements that name them. */

import { english } from "./english.mjs";
import { korean } from "./korean.mjs";

const DICTIONARIES = [english, korean];

/** Return the dictionary of the first language that there is one for; English otherwise. */
export function dictionaryFor(languages) {
  const codes = languages.map((language) => language.toLowerCase().split("-")[0]);
  const code = codes.find((each) => DICTIONARIES.some(({ language }) => language === each));
  return DICTIONARIES.find(({ language }) => language === code) ?? english;
}

/** Write the dictionary's texts into a document: `data-say` names an element's text, `data-say-hint` its placeholder. */
export function translate(page, say) {
  page.documentElement.lang = say.language;
  for (const each of page.querySelectorAll("[data-say]")) each.textContent = say[each.dataset.say];
  for (const each of page.querySelectorAll("[data-say-hint]")) each.placeholder = say[each.dataset.sayHint];
}
