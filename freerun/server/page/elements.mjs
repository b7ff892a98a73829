/** Elements of the page: found by id, or new ones. */

/** Return the element with an id. */
export function at(id) {
  return document.getElementById(id);
}

/** Return a new element with a class and a text. */
export function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Return a new button that calls `act` when it is pressed. */
export function button(label, act) {
  const made = element("button", "", label);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}
