"""What lanes leave with the connection that they share: requests that are not staged yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from flightserve.caller.destinations import Destination
from flightserve.caller.results import SharedSlice
from flightserve.caller.staging import Staged
from flightserve.contracts.service import Payload
from flightserve.errors import FlightserveError
from flightserve.types import RequestMeta

log = logging.getLogger(__name__)


class SubmittingLane(Protocol):
    """A lane, as the connection sees those that submit and wait. Any thread."""

    # Some of its requests were given up.
    has_unwanted: bool

    @property
    def has_replies(self) -> bool:
        """It has something to do other than wait."""
        ...

    def sleep(self, timeout_s: float) -> None:
        """Until `wake`, or the time has passed."""
        ...

    def wake(self) -> None:
        """End the current or the next `sleep`."""
        ...

    def deliver(self, key: int, result: SharedSlice | None, error: FlightserveError | None, last: bool) -> None:
        """A reply for the lane arrived."""
        ...

    def note_sent(self, key: int, request_id: int) -> None:
        """The request goes out under this id."""
        ...

    def cancel_unwanted(self, submission: Submission) -> None:
        """It went out: what was given up meanwhile is to be cancelled."""
        ...

    def defer(self, submission: Submission, nbytes: int) -> None:
        """The request is the lane's to submit again: there was no memory for it, so many bytes; with 0, others would
        have to wait while it is staged."""
        ...

    def submit_late(self, submission: Submission) -> None:
        """The connection is lost: the request is to go another way."""
        ...


class Submission(msgspec.Struct, eq=False):
    """What a lane sends at once, not staged yet, and where it goes as of the last look at the routing table: one
    request, or `parts` of one batch, whose keys follow that of the first. `meta` is then that of the one that ends
    last."""

    lane: SubmittingLane
    key: int
    destination: Destination
    payload: Payload | Staged
    meta: RequestMeta
    parts: Sequence[tuple[int, RequestMeta]] = ()

    @property
    def requests(self) -> Sequence[tuple[int, RequestMeta]]:
        """Each as (rows, metadata); the rows of a lone one are those of the payload."""
        return self.parts or [(0, self.meta)]

    @property
    def keys(self) -> range:
        """Theirs."""
        return range(self.key, self.key + (len(self.parts) or 1))

    def note_sent(self, request_id: int) -> None:
        """They went out, the first under this id."""
        for place in range(len(self.parts) or 1):
            self.lane.note_sent(self.key + place, request_id + place)

    def fail(self, error: Exception) -> None:
        """They cannot go out. An error that nobody raises on purpose is logged: who finds it may be another stream's
        thread, which goes on."""
        if not isinstance(error, FlightserveError):
            log.error("unforeseen error while a request was sent", exc_info=error)
            error = FlightserveError("internal error while the request was sent")
        for place in range(len(self.parts) or 1):
            self.lane.deliver(self.key + place, None, error, True)
