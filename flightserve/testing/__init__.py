"""An app in one process, for unit tests of users' apps and of the frontends: no Ray, no shared memory, no sockets.

    with LocalService(app) as service:
        result = service.run("Pricing", "charge", pa.record_batch({"price": [1.0]}))

`LocalService` is a `contracts.service.Service`. Requests go through the checks of the real one (schemas, deadlines,
limits, IPC validation), wait in a queue for each deployment, are cut where they are longer than
`max_batch_rows`, and run one after another on `concurrency` daemon threads; `async def` methods run on an event loop
of the service's own. There is one object of each class, whatever `replicas` says, and requests are micro-batched only
where they came together in `call_parts`. Its end calls what `@fs.on_stop` marks; `@fs.healthy` is not asked.
"""

from flightserve.testing.local import LocalService as LocalService

__all__ = ["LocalService"]
