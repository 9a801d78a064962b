"""What is deployed, described: for `GET /v1/...` and as OpenAPI 3.1."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, Final

from flightserve.contracts.warehouse import KIND, is_internal
from flightserve.frontends.http.bodies import ARROW, EVENTS, HTML, JSON, NDJSON
from flightserve.frontends.http.file_names import NAME_CHARS_MAX
from flightserve.frontends.http.json_schemas import field_schema
from flightserve.frontends.http.samples import sample_of
from flightserve.frontends.http.sql import FORMS as SQL_FORMS
from flightserve.frontends.http.sql_urls import FORMATS
from flightserve.frontends.json.columns import declared_schema
from flightserve.types import DeploymentSpec, MethodSpec

Json = dict[str, Any]
_JSON: Final = JSON.decode()
_ARROW: Final = ARROW.decode()
_NDJSON: Final = NDJSON.decode()
_EVENTS: Final = EVENTS.decode()
_HEADERS: Final[tuple[tuple[str, Json, str], ...]] = (
    ("x-timeout-ms", {"type": "integer", "minimum": 1}, "Milliseconds that the caller waits."),
    ("x-priority", {"type": "integer", "minimum": 0, "maximum": 9, "default": 0}, "Greater is more urgent."),
    ("x-request-id", {"type": "string", "maxLength": 128}, "Echoed in the answer; made up when absent."),
    ("x-request-key", {"type": "string", "maxLength": 128}, "A split sends requests of one key the same way."),
    ("traceparent", {"type": "string"}, "W3C trace context."),
    ("tracestate", {"type": "string"}, "W3C trace context, what tracing systems add to it."),
)
# The tag of what belongs to no deployment.
SERVER: Final = "server"
_STATUSES: Final = {
    "400": "The input is malformed.",
    "404": "No such deployment or method.",
    "406": "The answer cannot have any form that Accept names.",
    "413": "The body is over the limit.",
    "415": "The body's type or encoding is none that is read.",
    "422": "Wrong columns or types for the method.",
    "429": "The queue is full; retry later.",
    "500": "The method raised.",
    "503": "No replica can answer now; retry later.",
    "504": "The deadline passed.",
}


def describe_deployment(spec: DeploymentSpec) -> Json:
    """Name, version, kind, options and methods."""
    return {
        "name": spec.name,
        "version": spec.version,
        "kind": spec.kind,
        "doc": spec.doc,
        "options": dataclasses.asdict(spec.options),
        "methods": [describe_method(spec, method) for method in spec.methods],
    }


def describe_method(spec: DeploymentSpec, method: MethodSpec) -> Json:
    """One method: path, options, schemas as lists of fields (None where it declares none)."""
    return {
        "deployment": spec.name,
        "method": method.name,
        "path": f"/v1/{spec.name}/{method.name}",
        "doc": method.doc,
        "form": method.form,
        "row_aligned": method.row_aligned,
        "idempotent": method.idempotent,
        "streaming": method.streaming,
        "delimited": method.delimited,
        "strict": method.strict,
        "max_concurrent": method.max_concurrent or None,
        "input_schema": _fields(method.input_schema),
        "output_schema": _fields(method.output_schema),
        "internal": is_internal(spec, method),
        "sample": sample_of(spec, method)._asdict(),
    }


def _fields(serialised: bytes | None) -> list[Json] | None:
    if serialised is None:
        return None
    schema = declared_schema(serialised)
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]


def openapi(deployments: Sequence[DeploymentSpec], sql_by: Sequence[str] = ("POST",), closed: bool = False) -> Json:
    """An OpenAPI 3.1 document with one path for each method that clients call, and the fixed ones. `sql_by`: how
    queries may come. `closed`: callers have to say who they are."""
    document = _Document()
    paths: Json = {
        "/healthz": _get(document, "healthz", "The process is up.", _STATE),
        "/readyz": _get(document, "readyz", "Every deployment can serve.", _STATE, "503", "Not ready, or draining."),
        "/metrics": _get(document, "metrics", "Prometheus metrics.", _TEXT, media="text/plain"),
        "/v1/deployments": _get(document, "deployments", "What is deployed.", _LIST),
    }
    for spec in deployments:
        for method in spec.methods:
            if not is_internal(spec, method):
                path = f"/v1/{spec.name}/{method.name}"
                by_url = "GET" in sql_by and method.streaming and method.idempotent
                described = _describe(document, spec, method, by_url)
                paths[path] = {"post": _call(document, spec, method), "get": described}
    names = [spec.name for spec in deployments if spec.kind == KIND]
    if names:
        paths["/v1/sql"] = {"post": _sql(document, names)}
        if "GET" in sql_by:
            paths["/v1/sql"]["get"] = _sql_by_url(document, paths["/v1/sql"]["post"])
    tags = [{"name": spec.name, "description": spec.doc} for spec in deployments]
    return {
        "openapi": "3.1.0",
        "info": {"title": "flightserve", "version": "1"},
        "security": [{"bearer": []}, {"basic": []}] if closed else [],
        "tags": [*tags, {"name": SERVER, "description": "The server itself, and its tables together."}],
        "paths": _closed(paths) if closed else paths,
        "components": {"schemas": document.schemas, **({"securitySchemes": _SCHEMES} if closed else {})},
    }


_SCHEMES: Final[Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token."},
    "basic": {"type": "http", "scheme": "basic", "description": "A name, and its password or token."},
}
_OPEN: Final = ("/healthz", "/readyz")


def _closed(paths: Json) -> Json:
    """With what callers hear who do not say who they are, or may not; two paths are for everybody."""
    for path, item in paths.items():
        for operation in item.values():
            if path in _OPEN:
                operation["security"] = []
            else:
                responses = operation["responses"]
                responses["401"] = _error("No credentials, or wrong ones.")
                responses.setdefault("403", _error("The caller may not do this."))
    return paths


class _Document:
    """What is named once for all of it: operations, and schemas, whose names become those of classes."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self.schemas: Json = {"Error": _ERROR}

    def schema(self, name: str, content: Json) -> Json:
        """A reference to the schema, which is kept under that name."""
        self.schemas[name] = content
        return {"$ref": f"#/components/schemas/{name}"}

    def take(self, *names: str) -> str:
        """An id of these names, with a number where another has it, also as generators write it: they put names into
        one case, without marks."""
        wanted = "_".join(re.sub(r"[^A-Za-z0-9]+", "_", name) for name in names)
        for number in itertools.count(1):
            chosen = wanted if number == 1 else f"{wanted}_{number}"
            bare = chosen.replace("_", "").lower()
            if bare not in self._taken:
                self._taken.add(bare)
                break
        return chosen


_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "request_id")},
        }
    },
}


def _error(description: str) -> Json:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": description, "content": content}


_TEXT: Final[Json] = {"type": "string"}
_ANY_LIST: Final[Json] = {"type": "array", "items": {}}
_STATE: Final[Json] = {"type": "object", "required": ["status"], "properties": {"status": _TEXT}}
_METHOD: Final[Json] = {
    "type": "object",
    "required": ["deployment", "method", "path"],
    "properties": {"deployment": _TEXT, "method": _TEXT, "path": _TEXT, "doc": _TEXT},
    "additionalProperties": True,
}
_LIST: Final[Json] = {
    "type": "object",
    "required": ["deployments"],
    "properties": {
        "deployments": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "methods"],
                "properties": {"name": _TEXT, "methods": {"type": "array", "items": _METHOD}},
                "additionalProperties": True,
            },
        }
    },
}


def _get(
    document: _Document, name: str, summary: str, schema: Json, status: str = "", why: str = "", media: str = _JSON
) -> Json:
    more = {status: _error(why)} if status else {}
    answer = {"description": "OK", "content": {media: {"schema": schema}}}
    tags = [SERVER]
    return {
        "get": {
            "summary": summary,
            "operationId": document.take(name),
            "tags": tags,
            "responses": {"200": answer, **more},
        }
    }


def _describe(document: _Document, spec: DeploymentSpec, method: MethodSpec, by_url: bool) -> Json:
    described: Json = {
        "summary": f"Schemas and options of {spec.name}.{method.name}",
        "operationId": document.take("describe", spec.name, method.name),
        "tags": [spec.name],
        "responses": {
            "200": {"description": "OK", "content": {_JSON: {"schema": _METHOD}}},
            "404": _error("It is not there any more."),
        },
    }
    if by_url:
        described["description"] = f"With `Accept: {_EVENTS}` it is called, for browsers' EventSource."
        why = f"For {_EVENTS}: what a POST has as its body."
        described["parameters"] = [{"name": "body", "in": "query", "schema": _TEXT, "description": why}]
        described["responses"]["200"]["content"][_EVENTS] = {"schema": _TEXT}
    return described


_REPLY: Final = "The reply, in the form that `Accept` asks for."
_PARTS: Final = (
    f" Each part is sent when it is made, but as {_JSON}. {_NDJSON} has a row a line, and an error as the last one; "
    f"{_EVENTS} an event for each row, and at last one named `end`, or `error`."
)


def _call(document: _Document, spec: DeploymentSpec, method: MethodSpec) -> Json:
    summary, _, rest = method.doc.strip().partition("\n")
    name = document.take(spec.name, method.name)
    answer = _forms(document, f"{name}_output", method.output_schema, method.sums)
    answer[_NDJSON] = answer[_EVENTS] = {"schema": _TEXT}
    body = _forms(document, f"{name}_input", method.input_schema)
    if method.input_schema is None:
        _with_columns(document, f"{name}_input")
    sample = sample_of(spec, method).body
    if sample is not None:
        body[_JSON]["example"] = sample
    return {
        "summary": summary or f"Call {spec.name}.{method.name}",
        "description": rest.strip(),
        "operationId": name,
        "tags": [spec.name],
        "parameters": _headers(*_HEADERS),
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": _REPLY + _PARTS * method.streaming, "content": answer},
            **{status: _error(description) for status, description in _STATUSES.items()},
        },
    }


def _sql(document: _Document, warehouses: list[str]) -> Json:
    how = "A list by position, an object by name; a list of those: one execution for each."
    large = "How JSON has whole numbers beyond 2**53, sums and other decimals without a fraction too."
    nan = "What NaN and the infinities are; by default null in JSON and text in CSV."
    body: Json = {
        "query": {"type": "string", "minLength": 1, "description": "One SELECT; parameters are $1, ? or $name."},
        "parameters": {"oneOf": [_ANY_LIST, {"type": "object"}, {"type": "null"}], "description": how},
        "warehouse": {"type": "string", "enum": warehouses, "description": "Needed where there are several."},
        "shape": {"type": "string", "enum": ["rows", "columns"], "default": "rows"},
        "integers": {"type": "string", "enum": ["text", "number"], "default": "text", "description": large},
        "nan": {"type": "string", "enum": ["null", "text"], "description": nan},
    }
    named = ("x-warehouse", {"type": "string", "enum": warehouses}, "The warehouse, where there are several.")
    return {
        "summary": "Run SQL",
        "operationId": document.take("sql"),
        "tags": [SERVER],
        "parameters": _headers(*_HEADERS, named),
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {**_object(body), "required": ["query"]}}},
        },
        "responses": _sql_answers(),
    }


def _sql_by_url(document: _Document, post: Json) -> Json:
    """The same query in a URL."""
    fields: Json = post["requestBody"]["content"][_JSON]["schema"]["properties"]
    kinds = {name: field for name, field in fields.items() if name not in ("query", "parameters")}
    p = "Parameters by position, each read as SQL reads a literal. By name: p.NAME=VALUE."
    named: Json = {
        "query": fields["query"],
        "p": {"type": "array", "items": {"type": "string"}, "description": p},
        "parameters": {"type": "string", "description": "Parameters as JSON, in place of these."},
        "format": {"type": "string", "enum": list(FORMATS), "description": "It counts more than Accept."},
        **kinds,
        "filename": {"type": "string", "maxLength": NAME_CHARS_MAX, "description": "The name of the file it becomes."},
        "bom": {"type": "string", "enum": ["0", "1"], "description": "1: CSV begins with a byte order mark."},
    }
    in_url = [
        {"name": name, "in": "query", "required": name == "query", "schema": schema} for name, schema in named.items()
    ]
    whole = post["responses"]["200"]
    page = {"200": {**whole, "content": {**whole["content"], HTML.decode(): {"schema": {"type": "string"}}}}}
    unchanged = {"304": {"description": "The answer is still the one that If-None-Match names."}}
    return {
        **{name: value for name, value in post.items() if name != "requestBody"},
        "summary": "Run SQL that is in the URL",
        "operationId": document.take("sql_by_url"),
        "parameters": [*in_url, *post["parameters"]],
        "responses": {**post["responses"], **page, **unchanged},
    }


def _sql_answers() -> Json:
    rows = {"type": "array", "items": {"type": "object"}}
    columns = {"type": "object", "additionalProperties": _ANY_LIST}
    shapes = {"oneOf": [_object({"rows": rows}), _object({"columns": columns})]}
    forms: Json = {_JSON: {"schema": shapes}} | {form.decode(): {"schema": _TEXT} for form in SQL_FORMS if form != JSON}
    more = {"400": "Malformed, or the query or its parameters are wrong.", "403": "The query may not do this."}
    refused = {status: _error(why) for status, why in {**_STATUSES, **more}.items() if status != "422"}
    return {"200": {"description": "The result, in the form that is asked for, streamed.", "content": forms}, **refused}


def _headers(*headers: tuple[str, Json, str]) -> list[Json]:
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": description}
        for name, schema, description in headers
    ]


def _forms(document: _Document, name: str, serialised: bytes | None, sums: bool = False) -> Json:
    columns = _object({"columns": _table(serialised, True, sums)})
    row = document.schema(f"{name}_row", _table(serialised, False, sums))
    rows = _object({"rows": {"type": "array", "items": row}})
    either = [document.schema(f"{name}_columns", columns), document.schema(f"{name}_rows", rows)]
    return {
        _JSON: {"schema": {"oneOf": either}},
        _ARROW: {"schema": {"type": "string", "format": "binary"}},
    }


def _with_columns(document: _Document, name: str) -> None:
    """A body of whatever columns has one at least."""
    document.schemas[f"{name}_columns"]["properties"]["columns"]["minProperties"] = 1
    document.schemas[f"{name}_row"]["minProperties"] = 1
    document.schemas[f"{name}_rows"]["properties"]["rows"]["minItems"] = 1


def _table(serialised: bytes | None, in_columns: bool, sums: bool) -> Json:
    if serialised is None:
        return {"type": "object", "additionalProperties": _ANY_LIST if in_columns else True}
    properties: Json = {}
    for field in declared_schema(serialised):
        value = field_schema(field, sums)
        properties[field.name] = {"type": "array", "items": value} if in_columns else value
    return _object(properties)


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
