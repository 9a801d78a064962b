"""The client for Python users: `fs.connect` and `fs.connect_async`.

| module | what |
|---|---|
| `connecting`, `finding` | `connect`, `connect_async`: which way leads to an address; apps of this machine |
| `blocking`, `feeding` | `Client`: deployments and methods as attributes, SQL, streams both ways |
| `aio`, `async_parts`, `async_ways` | `AsyncClient`, and its two ways |
| `calling`, `retrying` | what a call asks for, and whether it is made again (`retrying` is pure) |
| `rows` | what users have (tables, frames, arrays, dicts) as record batches, and back |
| `sql` | statements as requests of a warehouse |
| `catalogue` | what is deployed there; names that are not |
| `way` | what a way to an app can do, as a protocol |
| `flight_way`, `flight_errors` | over Arrow Flight, from anywhere |
| `memory_way`, `peer`, `held` | over the data plane's shared memory, from the same machine and user |
"""
