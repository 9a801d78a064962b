// The page: what is deployed, each method with a form, SQL where there is a warehouse.
import { fragment, make, prose } from "./elements.js";
import { methodBlock } from "./method.js";
import { address } from "./requests.js";
import { sqlForm } from "./sql.js";

const FIRST_QUERY = "SELECT table_name, column_name, data_type\nFROM information_schema.columns\nORDER BY ALL";

function section(id, title, note, ...inside) {
  const heading = make("h2", { id }, title, " ", make("small", { textContent: note }));
  document.getElementById("contents").append(make("li", {}, make("a", { href: `#${id}`, textContent: title })));
  return make("section", { ariaLabel: title }, heading, ...inside);
}

function sqlSection(warehouses, methods) {
  return section("sql", "SQL", "one statement, read-only", sqlForm(warehouses, FIRST_QUERY, methods.includes("GET")));
}

function deploymentSection(deployment, byUrl) {
  const own = deployment.methods.filter((method) => !method.internal);
  const internal = deployment.methods.filter((method) => method.internal);
  const inside = [make("p", {}, ...prose(deployment.doc)), ...own.map((method) => methodBlock(method, byUrl))];
  if (internal.length) {
    inside.push(make("details", { className: "internal" },
      make("summary", { textContent: "Methods that the frontends call" }), ...internal.map((method) => methodBlock(method, false))));
  }
  return section(`deployment-${deployment.name}`, deployment.name, `version ${deployment.version}`, ...inside);
}

async function load() {
  const response = await fetch(address("v1/deployments"));
  if (!response.ok) throw new Error(`v1/deployments answers ${response.status}`);
  const { deployments, sql_by: methods } = await response.json();
  const warehouses = deployments.filter((each) => each.kind === "sql").map((each) => each.name);
  const sections = warehouses.length ? [sqlSection(warehouses, methods)] : [];
  sections.push(...deployments.map((each) => deploymentSection(each, methods.includes("GET"))));
  document.getElementById("main").replaceChildren(...sections);
  if (!deployments.length) document.getElementById("main").textContent = "Nothing is deployed.";
  // The browser looked for it before it was there.
  if (location.hash) document.getElementById(fragment())?.scrollIntoView();
}

load().catch((error) => { document.getElementById("loading").textContent = String(error.message ?? error); });
