"""The client for Python users: `fs.connect` and `fs.connect_async`.

| module | what |
|---|---|
| `connecting` | `connect`, `connect_async`: which way leads to an address |
| `blocking`, `aio` | `Client` and `AsyncClient`: deployments and methods as attributes, SQL, retries |
| `rows` | what users have (tables, frames, arrays, dicts) as record batches, and back |
| `catalogue` | what is deployed there; names that are not |
| `retrying` | whether a failed call is made again, and when (pure) |
| `way` | what a way to an app can do, as a protocol |
| `flight_way` | over Arrow Flight, from anywhere |
| `memory_way` | over the data plane's shared memory, from the same machine and user |
"""
