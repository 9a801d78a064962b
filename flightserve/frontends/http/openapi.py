"""What is deployed, described: for `GET /v1/...` and as OpenAPI 3.1."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

from flightserve.contracts.warehouse import KIND
from flightserve.frontends.http.bodies import ARROW, HTML, NDJSON
from flightserve.frontends.http.file_names import NAME_CHARS_MAX
from flightserve.frontends.http.samples import is_internal, sample_of
from flightserve.frontends.http.sql import FORMS as SQL_FORMS
from flightserve.frontends.http.sql_urls import FORMATS
from flightserve.frontends.json.columns import declared_schema
from flightserve.types import DeploymentSpec, MethodSpec

Json = dict[str, Any]
_ARROW: Final = ARROW.decode()
_NDJSON: Final = NDJSON.decode()
_HEADERS: Final[tuple[tuple[str, Json, str], ...]] = (
    ("x-timeout-ms", {"type": "integer", "minimum": 0}, "Milliseconds that the caller waits."),
    ("x-priority", {"type": "integer", "minimum": 0, "maximum": 9, "default": 0}, "Greater is more urgent."),
    ("x-request-id", {"type": "string", "maxLength": 128}, "Echoed in the answer; made up when absent."),
    ("traceparent", {"type": "string"}, "W3C trace context."),
)
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


def openapi(deployments: Sequence[DeploymentSpec], sql_by: Sequence[str] = ("POST",)) -> Json:
    """An OpenAPI 3.1 document with one path for each method, and the fixed ones. `sql_by`: how queries may come."""
    paths: Json = {
        "/healthz": _get("The process is up."),
        "/readyz": _get("Every deployment can serve.", {"503": _error("Not ready, or draining.")}),
        "/metrics": _get("Prometheus metrics."),
        "/v1/deployments": _get("What is deployed."),
    }
    for spec in deployments:
        for method in spec.methods:
            paths[f"/v1/{spec.name}/{method.name}"] = {"post": _call(spec, method), "get": _describe(spec, method)}
    names = [spec.name for spec in deployments if spec.kind == KIND]
    if names:
        paths["/v1/sql"] = {"post": _sql(names)}
        if "GET" in sql_by:
            paths["/v1/sql"]["get"] = _sql_by_url(paths["/v1/sql"]["post"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "flightserve", "version": "1"},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


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
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": description, "content": content}


def _get(summary: str, more: Json | None = None) -> Json:
    return {"get": {"summary": summary, "responses": {"200": {"description": "OK"}, **(more or {})}}}


def _describe(spec: DeploymentSpec, method: MethodSpec) -> Json:
    return {
        "summary": f"Schemas and options of {spec.name}.{method.name}",
        "operationId": f"describe_{spec.name}_{method.name}",
        "tags": [spec.name],
        "responses": {"200": {"description": "OK"}},
    }


def _call(spec: DeploymentSpec, method: MethodSpec) -> Json:
    summary, _, rest = method.doc.strip().partition("\n")
    answer = _forms(method.output_schema)
    answer[_NDJSON] = {"schema": {"type": "string"}}
    body = _forms(method.input_schema)
    sample = sample_of(spec, method).body
    if sample is not None:
        body["application/json"]["example"] = sample
    return {
        "summary": summary or f"Call {spec.name}.{method.name}",
        "description": rest.strip(),
        "operationId": f"{spec.name}_{method.name}",
        "tags": [spec.name],
        "parameters": _headers(*_HEADERS),
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": "The reply, in the form that `Accept` asks for.", "content": answer},
            **{status: _error(description) for status, description in _STATUSES.items()},
        },
    }


def _sql(warehouses: list[str]) -> Json:
    values = {"type": "array", "items": {}}
    how = "A list by position, an object by name; a list of those: one execution for each."
    large = "How JSON has whole numbers beyond 2**53, sums and other decimals without a fraction too."
    nan = "What NaN and the infinities are; by default null in JSON and text in CSV."
    body: Json = {
        "query": {"type": "string", "description": "One SELECT; parameters are $1, ? or $name."},
        "parameters": {"oneOf": [values, {"type": "object"}, {"type": "null"}], "description": how},
        "warehouse": {"type": "string", "enum": warehouses, "description": "Needed where there are several."},
        "shape": {"type": "string", "enum": ["rows", "columns"], "default": "rows"},
        "integers": {"type": "string", "enum": ["text", "number"], "default": "text", "description": large},
        "nan": {"type": "string", "enum": ["null", "text"], "description": nan},
    }
    rows = {"type": "array", "items": {"type": "object"}}
    columns = {"type": "object", "additionalProperties": {"type": "array"}}
    answer: Json = {form.decode(): {"schema": {"type": "string"}} for form in SQL_FORMS}
    answer["application/json"] = {"schema": {"oneOf": [_object({"rows": rows}), _object({"columns": columns})]}}
    more = {"400": "Malformed, or the query or its parameters are wrong.", "403": "The query may not do this."}
    named = ("x-warehouse", {"type": "string", "enum": warehouses}, "The warehouse, where there are several.")
    return {
        "summary": "Run SQL",
        "operationId": "sql",
        "tags": warehouses,
        "parameters": _headers(*_HEADERS, named),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {**_object(body), "required": ["query"]}}},
        },
        "responses": {
            "200": {"description": "The result, in the form that `Accept` asks for, streamed.", "content": answer},
            **{status: _error(description) for status, description in {**_STATUSES, **more}.items() if status != "422"},
        },
    }


def _sql_by_url(post: Json) -> Json:
    """The same query in a URL."""
    fields: Json = post["requestBody"]["content"]["application/json"]["schema"]["properties"]
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
        "operationId": "sql_by_url",
        "parameters": [*in_url, *post["parameters"]],
        "responses": {**post["responses"], **page, **unchanged},
    }


def _headers(*headers: tuple[str, Json, str]) -> list[Json]:
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": description}
        for name, schema, description in headers
    ]


def _forms(serialised: bytes | None) -> Json:
    return {
        "application/json": {"schema": {"oneOf": [_columns(serialised), _rows(serialised)]}},
        _ARROW: {"schema": {"type": "string", "format": "binary"}},
    }


def _columns(serialised: bytes | None) -> Json:
    return _object({"columns": _table(serialised, in_columns=True)})


def _rows(serialised: bytes | None) -> Json:
    return _object({"rows": {"type": "array", "items": _table(serialised, in_columns=False)}})


def _table(serialised: bytes | None, in_columns: bool) -> Json:
    if serialised is None:
        return {"type": "object", "additionalProperties": {"type": "array"} if in_columns else True}
    properties: Json = {}
    for field in declared_schema(serialised):
        value = _field(field)
        properties[field.name] = {"type": "array", "items": value} if in_columns else value
    return _object(properties)


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def _field(field: pa.Field) -> Json:
    """A column's value, or one within another. `oneOf` takes no value that both of its schemas take."""
    value = json_schema(field.type)
    takes_null = not value or value == {"type": "null"}
    return {"oneOf": [value, {"type": "null"}]} if field.nullable and not takes_null else value


def json_schema(kind: pa.DataType) -> Json:
    """JSON Schema of a value of an Arrow type, as `json.columns` says it."""
    if pt.is_integer(kind):
        low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
        if pt.is_unsigned_integer(kind):
            low, high = 0, 2**kind.bit_width - 1
        # orjson writes 64 bits; so does this.
        return {"type": "integer", "minimum": low, "maximum": high}
    for matches, schema in _TEXTS:
        if matches(kind):
            return dict(schema)
    if isinstance(kind, pa.BaseExtensionType):
        return json_schema(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return json_schema(kind.value_type)
    if pt.is_struct(kind):
        return {"type": "object", "properties": {field.name: _field(field) for field in kind}}
    if pt.is_map(kind):
        pair = [_field(kind.key_field), _field(kind.item_field)]
        return {"type": "array", "items": {"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2}}
    if pt.is_nested(kind) and not pt.is_union(kind):
        return {"type": "array", "items": _field(kind.value_field)}
    return {}


_TEXTS: Final = (
    (pt.is_floating, {"type": "number"}),
    (pt.is_boolean, {"type": "boolean"}),
    (pt.is_null, {"type": "null"}),
    (lambda t: pt.is_string(t) or pt.is_large_string(t) or pt.is_string_view(t), {"type": "string"}),
    (pt.is_timestamp, {"type": "string", "format": "date-time"}),
    (pt.is_date, {"type": "string", "format": "date"}),
    (pt.is_time, {"type": "string", "format": "time"}),
    (pt.is_duration, {"type": "integer"}),
    (pt.is_decimal, {"type": "string", "format": "decimal"}),
    (
        lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_fixed_size_binary(t) or pt.is_binary_view(t),
        {"type": "string", "contentEncoding": "base64"},
    ),
)
