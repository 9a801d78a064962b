// What could be meant by the word before the caret. Pure: texts in, texts out.
import { KEYWORDS } from "./catalogue.js";

export const CHOICES_MAX = 40;

// `start`: where the word begins that a choice takes the place of. Nothing within a text, a comment or a number.
export function choicesFor(text, caret, tables) {
  const before = text.slice(0, caret);
  const place = placeOf(before);
  if (place === "outside") return { start: caret, choices: [] };
  const start = place.start;
  const word = before.slice(start);
  const owner = /((?:"(?:[^"]|"")*"|[\p{L}_][\p{L}\p{N}_$]*))\s*\.\s*$/u.exec(before.slice(0, start))?.[1];
  const found = owner === undefined ? everything(text, word, tables) : ofOwner(text, owner, tables);
  const wanted = bare(word);
  const matching = found.filter(({ name }) => bare(name) !== wanted || name !== word).map((each) => ({ ...each, rank: rankOf(bare(each.name), wanted) }))
    .filter(({ rank }) => rank < 3);
  matching.sort((a, b) => a.rank - b.rank || a.order - b.order);
  return { start, choices: unlike(matching).slice(0, CHOICES_MAX), named: owner !== undefined };
}

// The start of the word that ends the text, or "outside" where that is a text in quotes, a comment or a number.
function placeOf(before) {
  let at = 0;
  let start = before.length;
  const token = /'(?:[^']|'')*'?|"(?:[^"]|"")*"?|--[^\n]*\n?|\/\*[\s\S]*?(?:\*\/|$)|[\p{L}_][\p{L}\p{N}_$]*|\p{N}[\p{L}\p{N}_.]*|[\s\S]/guy;
  for (let found; (found = token.exec(before)); at = token.lastIndex) {
    if (token.lastIndex < before.length) continue;
    const text = found[0];
    const open = (/^'/.test(text) && !/^'(?:[^']|'')*'$/.test(text)) || (text.startsWith("--") && !text.endsWith("\n")) ||
      (text.startsWith("/*") && (!text.endsWith("*/") || text.length < 4)) || /^\p{N}/u.test(text);
    if (open) return "outside";
    if (/^[\p{L}_]/u.test(text) || /^"(?:[^"]|"")*$/.test(text)) start = at;
  }
  return { start };
}

const bare = (name) => name.replace(/^"|"$/g, "").replaceAll('""', '"').toLowerCase();

function rankOf(name, wanted) {
  if (name.startsWith(wanted)) return 0;
  if (name.split(/[^\p{L}\p{N}]+/u).some((part) => part.startsWith(wanted))) return 1;
  return wanted.length > 1 && name.includes(wanted) ? 2 : 3;
}

function everything(text, word, tables) {
  const mentioned = tables.filter(({ name }) => mentions(text, name));
  const lower = word !== "" && word === word.toLowerCase();
  return [
    ...mentioned.flatMap(({ name, columns }) => columns.map((column) => ({ name: column.name, about: `${name}, ${column.type}`, order: 0 }))),
    ...tables.map(({ name }) => ({ name, about: "table", order: 1 })),
    ...KEYWORDS.map((name) => ({ name: lower ? name.toLowerCase() : name, about: "", order: 2 })),
    ...(mentioned.length ? [] : tables.flatMap(({ name, columns }) =>
      columns.map((column) => ({ name: column.name, about: `${name}, ${column.type}`, order: 3 })))),
  ];
}

// Behind a dot: a table's columns, by its name or the one it was given; or a schema's tables.
function ofOwner(text, owner, tables) {
  const wanted = bare(owner);
  const given = new RegExp(String.raw`((?:"(?:[^"]|"")*"|[\p{L}\p{N}_$.])+)\s+(?:as\s+)?${escaped(owner)}(?![\p{L}\p{N}_$])`, "iu").exec(text)?.[1];
  const table = tables.find(({ name }) => bare(name) === wanted) ?? tables.find(({ name }) => given && bare(name) === bare(given));
  if (table) return table.columns.map((column) => ({ name: column.name, about: column.type, order: 0 }));
  return tables.filter(({ name }) => name.startsWith(`${owner}.`)).map(({ name }) => ({ name: name.slice(owner.length + 1), about: "table", order: 0 }));
}

const mentions = (text, name) => new RegExp(String.raw`(?<![\p{L}\p{N}_$"])${escaped(name)}(?![\p{L}\p{N}_$"])`, "iu").test(text);
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&");

function unlike(choices) {
  const seen = new Set();
  return choices.filter(({ name }) => !seen.has(name.toLowerCase()) && seen.add(name.toLowerCase()));
}
