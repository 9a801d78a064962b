"""What a client's process learns from the supervisor of an app of the same machine and user: the routing table, as the
app's own processes get it.

The connection is the client's only part in the control plane: it is not watched, not started anew, and nothing waits
for it. A supervisor that comes back listens at the same place and is followed again; an app whose folder is gone has
ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from flightserve.control.messages import Follow, Followed, Inbox, Publish, encode
from flightserve.errors import ProtocolError
from flightserve.fabric.transport.channels import check_peer
from flightserve.wire.table import RoutingTable

log = logging.getLogger("flightserve.control.following")

READ_BYTES: Final = 1 << 16
RETRY_S: Final = 0.2
# A supervisor that died is back sooner.
GONE_S: Final = 15.0


class NotFollowed(Exception):
    """The app is none of those that clients follow."""


async def follow(path: str, followed: Callable[[Followed], None], on_table: Callable[[RoutingTable], None]) -> None:
    """Follow the supervisor that listens at `path` until its app has ended, it refuses (`Followed.closed`), or this is
    cancelled."""
    loop = asyncio.get_running_loop()
    heard_s = loop.time()
    while loop.time() - heard_s < GONE_S and os.path.exists(os.path.dirname(path)):
        try:
            if await _converse(path, followed, on_table):
                heard_s = loop.time()
        except NotFollowed:
            return
        except (OSError, ProtocolError) as error:
            log.debug("the supervisor is not followed: %s", error)
        await asyncio.sleep(RETRY_S)


async def _converse(path: str, followed: Callable[[Followed], None], on_table: Callable[[RoutingTable], None]) -> bool:
    """One connection, to its end; whether anything was heard."""
    reader, writer = await asyncio.open_unix_connection(path)
    inbox, heard = Inbox(), False
    try:
        check_peer(writer.get_extra_info("socket"))
        writer.write(encode(Follow()))
        while data := await reader.read(READ_BYTES):
            for message in inbox.feed(data):
                heard = True
                if isinstance(message, Publish):
                    on_table(message.table)
                elif isinstance(message, Followed):
                    followed(message)
                    if message.closed:
                        raise NotFollowed
                else:
                    raise ProtocolError(f"a supervisor does not send {type(message).__name__} to clients")
    finally:
        writer.close()
    return heard
