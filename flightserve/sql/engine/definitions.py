"""Views and macros over a warehouse's tables (`--init FILE.sql`), created when an engine is opened.

Only CREATE VIEW and CREATE MACRO are taken. A view is one more table to callers; a macro one more function. What the
engine decides by a statement's text (whether executions are merged, whether results are kept) it cannot see through a
view or a macro: so each is looked at here, and those that are not the same each time, or that one cannot look into, are
told to the parser.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb

from flightserve.contracts.warehouse import SQL_BYTES_MAX
from flightserve.errors import ConfigError, FlightserveError
from flightserve.sql.engine.errors import explain
from flightserve.sql.sources.spelling import quoted, quoted_name
from flightserve.sql.sources.table_groups import folded
from flightserve.sql.statements.merging import NotMergeable, refuse_undefined
from flightserve.sql.statements.parser import Parser, Tree, walk
from flightserve.sql.statements.policy import RESERVED_PREFIX
from flightserve.sql.statements.reading import read_sources
from flightserve.sql.statements.steadiness import follows_the_clock

DEFINITIONS_MAX: Final = 1000
_NAME: Final = r'("(?:[^"]|"")+"|[^\W\d]\w*)'
_CREATE: Final = re.compile(
    rf"CREATE\s+(?:OR\s+REPLACE\s+)?(?P<kind>VIEW|MACRO|FUNCTION)\s+(?P<maybe>IF\s+NOT\s+EXISTS\s+)?(?P<name>{_NAME})"
    r"\s*(?P<next>\.|\(|\w)",
    re.IGNORECASE | re.DOTALL,
)

_LINE: Final = re.compile(r"^LINE (\d+):", re.MULTILINE)
_READS: Final = frozenset({"BASE_TABLE", "SUBQUERY", "TABLE_FUNCTION"})


@dataclass(frozen=True, slots=True)
class Definition:
    """One statement: what it creates, and the line that it begins in."""

    kind: str
    name: str
    text: str
    line: int


class Definitions:
    """The statements of a text. Raises ConfigError for one that is none of these, and says which."""

    def __init__(self, text: str, tables: Collection[str]) -> None:
        self._all = list(_parse(text)) if text.strip() else []
        self._text = text
        # The tables that each macro reads, by name, both in lower case.
        self.reads: dict[str, frozenset[str]] = {}
        if len(self._all) > DEFINITIONS_MAX:
            raise ConfigError(f"the init file has {len(self._all)} statements; at most {DEFINITIONS_MAX} are taken")
        taken = {folded(name) for name in tables}
        for each in self._all:
            if folded(each.name) in taken:
                raise _wrong(each, f"a table is called {each.name} already")

    def __repr__(self) -> str:
        return f"<Definitions of {len(self._all)} views and macros>"

    @property
    def views(self) -> list[str]:
        """The names of the views."""
        return list(dict.fromkeys(each.name for each in self._all if each.kind == "VIEW"))

    @property
    def macros(self) -> frozenset[str]:
        """The names of the macros, in lower case."""
        return frozenset(folded(each.name) for each in self._all if each.kind == "MACRO")

    def version(self, tables: str) -> str:
        """A view's version, where that of all tables is this."""
        return hashlib.blake2b(f"{self._text}\0{tables}".encode(), digest_size=8).hexdigest()

    def create(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create them all, in their order. Raises ConfigError that names the statement."""
        own = _functions(connection) if self.macros else frozenset()
        for each in self._all:
            if each.kind == "MACRO" and folded(each.name) in own:
                raise _wrong(each, f"the engine has a function {each.name} of its own")
            try:
                connection.execute(each.text)
                if each.kind == "VIEW":
                    connection.execute(f"DESCRIBE FROM {quoted_name(each.name)}")
            except duckdb.Error as error:
                raise _wrong(each, explain(error)) from error

    def columns(self, session: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, duckdb.DuckDBPyRelation]]:
        """Each view with its relation, of the locked engine. Raises ConfigError for one that reaches outside."""
        for each in self._all:
            if each.kind == "VIEW":
                try:
                    yield each.name, session.sql(f"FROM {quoted_name(each.name)} LIMIT 0")
                except duckdb.Error as error:
                    raise _wrong(
                        each, f"{explain(error)}; it may read the tables only, so name files as tables"
                    ) from error

    def create_macros(
        self, connection: duckdb.DuckDBPyConnection, catalog: str, without: Collection[str] | None = None
    ) -> frozenset[str]:
        """Create the macros where statements are looked at, in its own catalog and in ours; the names of those that are
        there now, in lower case. Where some tables are not there, all but `without` are tried: those that read what is
        missing cannot be made."""
        made: set[str] = set()
        for place in filter(None, (catalog, "memory")):
            connection.execute(f"USE {quoted_name(place)}")
            for each in self._all:
                if each.kind != "MACRO" or folded(each.name) in (without or ()):
                    continue
                try:
                    connection.execute(each.text)
                except duckdb.Error:
                    if without is None:
                        raise
                else:
                    made.add(folded(each.name))
        return frozenset(made)

    def tell(self, parser: Parser, connection: duckdb.DuckDBPyConnection) -> None:
        """Tell the parser which of them may give something else each time, and which tell of the catalogue; a
        definition may use those before it. Note what macros read."""
        for each in self._all:
            trees = list(_trees(parser, connection, each))
            sources = [read_sources(tree, parser) for tree in trees]
            if each.kind == "MACRO":
                names = frozenset().union(*(found.read for found in sources))
                self.reads[folded(each.name)] = names.union(*(self.reads.get(name, ()) for name in names))
            if not sources or any(found.catalogue for found in sources):
                parser.telling |= {folded(each.name)}
            if not trees or not all(_is_steady(tree, parser, each.kind) for tree in trees):
                parser.undefined |= {folded(each.name)}


def _is_steady(tree: Tree, parser: Parser, kind: str) -> bool:
    """Whether the definition gives the same as long as the tables are the same. A macro that reads tables is not
    looked into any further: what it gives may depend on what it is called with."""
    try:
        refuse_undefined(tree, parser)
    except NotMergeable:
        return False
    nodes = list(walk(tree))
    reads = kind == "MACRO" and any(node.get("type") in _READS or node.get("class") == "SUBQUERY" for node in nodes)
    return not reads and not any(follows_the_clock(node, parser.unsteady) for node in nodes)


def _parse(text: str) -> Iterator[Definition]:
    if len(text.encode()) > SQL_BYTES_MAX:
        raise ConfigError(f"the init file has more than {SQL_BYTES_MAX} bytes")
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        found = _LINE.search(str(error))
        where = f"'s line {found[1]}" if found else ""
        raise ConfigError(f"the init file{where} cannot be parsed: {explain(error)}") from error
    at = 0
    for statement in statements:
        query = statement.query.strip()
        begins = text.find(query, at)
        at = max(at, begins) + len(query) if begins >= 0 else at
        bare, skipped = _bare(query)
        line = text.count("\n", 0, max(0, begins) + skipped) + 1
        yield _definition(bare, line)


def _bare(query: str) -> tuple[str, int]:
    """The statement without comments before it, and how much these are."""
    raw = query.encode()
    starts = [start for start, kind in duckdb.tokenize(query) if kind != duckdb.token_type.comment]
    begins = starts[0] if starts else 0
    return raw[begins:].decode(), len(raw[:begins].decode())


def _definition(text: str, line: int) -> Definition:
    match = _CREATE.match(text)
    if match is None:
        words = " ".join(text.split()[:4])[:80]
        raise ConfigError(f"the init file's line {line}: {words} ...: only CREATE VIEW and CREATE MACRO are taken")
    name = match["name"]
    name = name[1:-1].replace('""', '"') if name.startswith('"') else name
    kind = "VIEW" if match["kind"].upper() == "VIEW" else "MACRO"
    made = Definition(kind, name, text, line)
    if match["next"] == ".":
        raise _wrong(made, "its name stands alone, without a catalog or a schema")
    if folded(name).startswith(RESERVED_PREFIX):
        raise _wrong(made, f"names that begin with {RESERVED_PREFIX} are flightserve's own")
    return made


def _wrong(each: Definition, why: str) -> ConfigError:
    return ConfigError(f"the init file's line {each.line}: {each.kind.lower()} {each.name}: {why}")


def _functions(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    rows = connection.execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()").fetchall()
    return frozenset(name for (name,) in rows)


def _trees(parser: Parser, connection: duckdb.DuckDBPyConnection, each: Definition) -> Iterator[Tree]:
    """What it stands for, parsed; nothing where that cannot be told."""
    for text in _bodies(connection, each):
        for candidate in text:
            try:
                yield parser.tree(candidate)
                break
            except FlightserveError:
                continue
        else:
            return


def _bodies(connection: duckdb.DuckDBPyConnection, each: Definition) -> Iterator[Sequence[str]]:
    """Texts that the engine has of it, each with ways to read it as a query."""
    if each.kind == "VIEW":
        where = f"view_name = {quoted(each.name)} AND NOT internal"
        for (sql,) in connection.execute(f"SELECT sql FROM duckdb_views() WHERE {where}").fetchall():
            ends = [match.end() for match in re.finditer(r"\bAS\b", sql)]
            yield [sql[end:].strip().rstrip(";") for end in ends]
    else:
        where = f"lower(function_name) = {quoted(folded(each.name))} AND NOT internal"
        rows = connection.execute(f"SELECT macro_definition FROM duckdb_functions() WHERE {where}").fetchall()
        for (sql,) in rows:
            yield [sql, f"SELECT ({sql})"]
