// An element with these properties or attributes, and what is in it. Texts stay texts, whatever they look like.
export function make(name, given = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

let last = 0;

// A name that no other element of the page has.
export const freshId = (what) => `${what}-${++last}`;
