"""One query over many nodes: Daft runs it, DuckDB says what it means.

Daft's own SQL would answer some statements differently without a word: whole numbers wrap around, a cast that does not
fit gives NULL, NaN compares by other rules. So its SQL is not used. DuckDB parses, checks and binds a statement as it
does for its own engine, and gives the plan, in which every type and every cast is written out, and subqueries are joins
(`plans`). What moves rows is Daft's: reading files, filters and joins on plain columns, grouping, sorting (`relations`,
`joining`, `aggregates`). Every other expression is DuckDB's, run in Daft's processes over the batches that lie there
(`spelling`, `programs`). What neither can do as DuckDB alone would is refused when the statement is prepared, by name.
"""
