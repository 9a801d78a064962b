// What was sent, as a line for other clients: curl, Python, gRPC. Pure: texts in, texts out. Whatever the values are, each
// line is one that its shell or language reads as these values.

// A text for a POSIX shell.
export const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// A text for Python. JSON's escapes are Python's, once surrogates are characters.
export const pythonText = (text) => JSON.stringify(text);

// JSON as Python writes the same. Numbers stay as they were written: JavaScript's would lose digits.
export function pythonOf(json) {
  return json.replace(/"(?:[^"\\]|\\.)*"|true|false|null/gs, (token) =>
    ({ true: "True", false: "False", null: "None" })[token] ?? pythonText(JSON.parse(token)));
}

// On one line, but for what texts hold: those cannot have line ends of their own in JSON.
export const flat = (json) => json.replace(/\s*\n\s*/g, " ");

const HEADER = 'authorization: Bearer $TOKEN';
const TOKEN_OF_PYTHON = 'os.environ["TOKEN"]';

export function curlLine({ url, body, accept, signed }) {
  const header = signed ? ` -H "${HEADER}"` : "";
  return `curl -s ${shell(url)}${header} -H 'content-type: application/json' -H ${shell(`accept: ${accept}`)} -d ${shell(flat(body))}`;
}

// By the client for Python, which sends rows as Arrow.
export function pythonLines({ deployment, method, body, schema, flight, signed }) {
  const rows = rowsOf(body, schema);
  const given = signed ? `, headers={"authorization": "Bearer " + ${TOKEN_OF_PYTHON}}` : "";
  return [
    ...importsOf(rows, signed), "import pyarrow as pa", "", "import flightserve as fs", "",
    `rows = ${rows}`,
    `with fs.connect(${pythonText(flight)}${given}) as client:`,
    `    print(client[${pythonText(deployment)}][${pythonText(method)}](rows))`,
  ].join("\n");
}

// By gRPC's own library, with the stubs that are in the package.
export function grpcLines({ deployment, method, body, schema, grpc, secure, signed }) {
  const rows = rowsOf(body, schema);
  const target = pythonText(grpc);
  const channel = secure ? `grpc.secure_channel(${target}, grpc.ssl_channel_credentials())` : `grpc.insecure_channel(${target})`;
  const metadata = signed ? `, metadata=[("authorization", "Bearer " + ${TOKEN_OF_PYTHON})]` : "";
  return [
    ...importsOf(rows, signed), "import grpc", "import pyarrow as pa", "",
    "from flightserve.proto import flightserve_pb2, flightserve_pb2_grpc", "",
    `rows = ${rows}`,
    "sink = pa.BufferOutputStream()",
    "with pa.ipc.new_stream(sink, rows.schema) as writer:",
    "    writer.write_table(rows)",
    "request = flightserve_pb2.CallRequest(",
    `    deployment=${pythonText(deployment)}, method=${pythonText(method)}, arrow_stream=sink.getvalue().to_pybytes()`,
    ")",
    `with ${channel} as channel:`,
    `    reply = flightserve_pb2_grpc.FlightServeStub(channel).Call(request${metadata})`,
    "    print(pa.ipc.open_stream(reply.arrow_stream).read_all())",
  ].join("\n");
}

function importsOf(rows, signed) {
  return [...(rows.includes("base64.") ? ["import base64"] : []), ...(signed ? ["import os"] : [])];
}

// The body's rows as an Arrow table. What JSON writes as text or number, and the method takes for another type, says so.
function rowsOf(body, schema) {
  const types = new Map((schema ?? []).map(({ name, type }) => [name, type]));
  const columns = columnsOf(body).map(([name, values]) => `    ${pythonText(name)}: ${arrayOf(values, types.get(name) ?? "")},`);
  return columns.length ? `pa.table({\n${columns.join("\n")}\n})` : "pa.table({})";
}

function arrayOf(values, type) {
  const list = `[${values.map(pythonOf).join(", ")}]`;
  if (/^(large_)?binary(_view)?$|^fixed_size_binary/.test(type)) {
    const each = values.map((value) => (value === "null" ? "None" : `base64.b64decode(${pythonOf(value)})`));
    return `pa.array([${each.join(", ")}], pa.binary())`;
  }
  const wanted = arrowType(type);
  if (!wanted) return `pa.array(${list})`;
  return /^(date|time|decimal)/.test(type) ? `pa.array(${list}, pa.string()).cast(${wanted})` : `pa.array(${list}, ${wanted})`;
}

const PLAIN = /^(u?int(8|16|32|64)|float(16|32|64)|string|large_string|bool_?)$/;

// The Arrow type as pyarrow makes it, "" for one whose values are left to be guessed.
function arrowType(type) {
  const named = { bool: "bool_", float: "float32", double: "float64", halffloat: "float16" }[type] ?? type;
  if (PLAIN.test(named)) return `pa.${named}()`;
  if (/^date(32|64)\[/.test(type)) return `pa.${type.slice(0, 6)}()`;
  let found;
  if ((found = /^timestamp\[(s|ms|us|ns)(?:, tz=([^\]]+))?\]$/.exec(type))) return `pa.timestamp("${found[1]}"${found[2] ? `, ${pythonText(found[2])}` : ""})`;
  if ((found = /^time(32|64)\[(s|ms|us|ns)\]$/.exec(type))) return `pa.time${found[1]}("${found[2]}")`;
  if ((found = /^duration\[(s|ms|us|ns)\]$/.exec(type))) return `pa.duration("${found[1]}")`;
  if ((found = /^decimal(32|64|128|256)\((\d+), (-?\d+)\)$/.exec(type))) return `pa.decimal${found[1]}(${found[2]}, ${found[3]})`;
  return "";
}

// Columns of a body, {"columns": {...}} or {"rows": [...]}, with each value as the JSON text that it was.
export function columnsOf(body) {
  const top = membersOf(body);
  const columns = top.get("columns");
  if (columns !== undefined) return [...membersOf(columns)].map(([name, values]) => [name, itemsOf(values)]);
  const rows = itemsOf(top.get("rows") ?? "[]").map(membersOf);
  const names = [...new Set(rows.flatMap((row) => [...row.keys()]))];
  return names.map((name) => [name, rows.map((row) => row.get(name) ?? "null")]);
}

// The members of an object, and the items of a list, as texts. The text is valid JSON.
function membersOf(json) {
  const found = new Map();
  for (const part of partsOf(json)) {
    const [, name, value] = /^\s*("(?:[^"\\]|\\.)*")\s*:([\s\S]*)$/.exec(part) ?? [];
    if (name) found.set(JSON.parse(name), value.trim());
  }
  return found;
}

const itemsOf = (json) => partsOf(json).map((part) => part.trim());

function partsOf(json) {
  const parts = [];
  let [depth, start] = [0, 0];
  for (const { 0: token, index } of json.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{},]/gs)) {
    if (token === "[" || token === "{") {
      if (++depth === 1) start = index + 1;
    } else if (token === "]" || token === "}") {
      if (--depth === 0 && json.slice(start, index).trim()) parts.push(json.slice(start, index));
    } else if (token === "," && depth === 1) {
      parts.push(json.slice(start, index));
      start = index + 1;
    }
  }
  return parts;
}
