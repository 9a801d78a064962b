"""What flightserve is for: four apps of one file each, and one with everything on real data (`flights`, `make run`).

    model       predictions, vectorised over the rows of many callers
    pipeline    a deployment that calls another
    warehouse   Parquet files as SQL tables, with a query by name
    stream      a method that gives its rows as it makes them

Each serves with `flightserve run examples.NAME:app`; `python -m examples.NAME` serves it on free ports, calls it as a
client of yours would, and prints what came back.
"""
