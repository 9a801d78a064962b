// Elements of SVG.
const NAMESPACE = "http://www.w3.org/2000/svg";

export function draw(name, given = {}, ...inside) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

export const words = (text, x, y, className = "") => draw("text", { x, y, class: className }, text);
