// The tables that the person who asks may query, with their columns.
import { CsvReader } from "./csv.js";
import { ask, readText } from "./requests.js";

// Of more columns than that, in all, the others are neither shown nor completed.
export const COLUMNS_MAX = 20_000;
const QUERY = "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns " +
  `ORDER BY table_schema, table_name, ordinal_position LIMIT ${COLUMNS_MAX}`;

// Tables: {name, columns: [{name, type}]}. `name` is as it is written in SQL.
export async function tablesOf(warehouse) {
  const body = JSON.stringify({ query: QUERY, warehouse });
  const headers = { "content-type": "application/json", accept: "text/csv" };
  const reader = new CsvReader();
  const rows = [];
  const response = await ask("v1/sql", { method: "POST", body, headers });
  await readText(response, (piece) => {
    for (const row of reader.push(piece)) rows.push(row);
    return true;
  });
  const tables = new Map();
  for (const [schema, table, column, type] of rows.slice(1).map((row) => row.map((cell) => cell?.text ?? ""))) {
    const name = schema === "main" ? quoted(table) : `${quoted(schema)}.${quoted(table)}`;
    if (!tables.has(name)) tables.set(name, { name, columns: [] });
    tables.get(name).columns.push({ name: quoted(column), type });
  }
  return [...tables.values()];
}

// A name as SQL has to have it.
export const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) && !RESERVED.has(name) ? name : `"${name.replaceAll('"', '""')}"`);

export const KEYWORDS = ["SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "HAVING", "LIMIT", "OFFSET", "JOIN", "LEFT JOIN", "FULL JOIN",
  "CROSS JOIN", "LATERAL", "ON", "USING", "UNION ALL", "INTERSECT", "EXCEPT", "DISTINCT", "WITH", "AS", "AND", "OR", "NOT", "NULL", "IS NULL",
  "IS NOT NULL", "IN", "BETWEEN", "LIKE", "ILIKE", "CASE", "WHEN", "THEN", "ELSE", "END", "CAST", "COUNT", "SUM", "AVG", "MIN", "MAX", "MEDIAN",
  "DATE_TRUNC", "COALESCE", "QUALIFY", "PARTITION BY", "ROW_NUMBER", "ASC", "DESC", "NULLS LAST", "TRUE", "FALSE", "INTERVAL", "EXISTS",
  "EXPLAIN", "DESCRIBE", "SUMMARIZE", "ORDER BY ALL", "GROUP BY ALL"];

const RESERVED = new Set(["all", "and", "any", "as", "asc", "both", "case", "cast", "check", "collate", "column", "constraint", "create", "default",
  "desc", "describe", "distinct", "do", "else", "end", "except", "exists", "false", "fetch", "for", "foreign", "from", "grant", "group", "having", "in", "initially",
  "intersect", "into", "lateral", "leading", "limit", "not", "null", "offset", "on", "only", "or", "order", "pivot", "primary", "qualify",
  "references", "returning", "select", "show", "some", "summarize", "symmetric", "table", "then", "to", "trailing", "true", "union", "unique", "unpivot", "using",
  "variadic", "when", "where", "window", "with"]);
