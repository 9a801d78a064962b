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

// Text in which `backticks` mark code.
export const prose = (text) =>
  text.split("`").map((part, n) => (n % 2 ? make("code", { textContent: part }) : part)).filter((part) => part !== "");

// The part of the page that the address names. Whoever makes a link may write there what nobody can read.
export function fragment() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

let last = 0;

// A name that no other element of the page has.
export const freshId = (what) => `${what}-${++last}`;
