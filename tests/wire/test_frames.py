"""The frame codec: any split of the bytes gives the same frames; what is no frame is refused, never waited for."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.errors import ProtocolError
from flightserve.wire import frames

numbers = st.integers(min_value=0, max_value=2**63 - 1)
texts = st.text(max_size=20)
regions = st.builds(frames.Region, numbers, numbers, numbers, numbers, numbers)
parts = st.builds(frames.Part, numbers, numbers, numbers, numbers, st.integers(0, 9), texts, texts)
items = st.builds(frames.Item, numbers, numbers, numbers, st.booleans())
any_frame = st.one_of(
    st.builds(frames.Hello, numbers, numbers, texts, st.booleans(), texts, numbers, numbers, numbers),
    st.builds(frames.Segment, numbers, numbers, numbers),
    st.builds(frames.SegmentGone, numbers, numbers),
    st.builds(frames.Submit, texts, texts, regions, st.lists(parts, max_size=4), numbers),
    st.builds(frames.Cancel, st.lists(numbers, max_size=4)),
    st.builds(frames.Results, st.none() | regions, st.lists(items, max_size=4)),
    st.builds(frames.Outcome, numbers, st.integers(0, 12), texts, numbers),
    st.builds(frames.Release, st.lists(st.tuples(numbers, numbers, numbers), max_size=4), st.booleans()),
    st.builds(frames.Execute, numbers, texts, st.lists(regions, max_size=3), st.lists(parts, max_size=3)),
    st.builds(frames.Done, numbers, st.none() | regions, numbers, st.booleans(), st.lists(st.integers(0, 9))),
    st.builds(frames.Failed, numbers, st.integers(0, 12), texts, st.booleans(), st.lists(st.integers(0, 9))),
    st.builds(frames.Abandon, numbers),
    st.builds(frames.PeerGone, numbers),
    st.builds(frames.Ping, numbers),
    st.builds(frames.Pong, numbers),
    st.just(frames.Goodbye()),
    st.builds(frames.Taken, numbers, numbers),
    st.builds(frames.TablesRead, st.lists(numbers, max_size=4), st.lists(texts, max_size=3)),
    st.builds(frames.Moved, st.lists(numbers, max_size=4)),
)


@given(st.lists(any_frame, max_size=6), st.data())
def test_any_split_gives_the_same_frames(sent: list[frames.Frame], data: st.DataObject) -> None:
    encoded = frames.encode(sent)
    decoder = frames.FrameDecoder()
    got: list[frames.Frame] = []
    position = 0
    while position < len(encoded):
        step = data.draw(st.integers(1, len(encoded) - position))
        got += decoder.feed(encoded[position : position + step])
        position += step
    decoder.finish()
    assert got == sent


@given(any_frame)
def test_byte_by_byte_and_with_the_next_frames_beginning(frame: frames.Frame) -> None:
    encoded = frames.encode([frame])
    decoder = frames.FrameDecoder()
    for index in range(len(encoded) - 1):
        assert decoder.feed(encoded[index : index + 1]) == []
    assert decoder.feed(encoded[-1:] + encoded[:3]) == [frame]
    assert decoder.pending == 3
    with pytest.raises(ProtocolError, match="inside a frame"):
        decoder.finish()


@pytest.mark.parametrize("over", [0, 1])
def test_a_length_at_the_bound_is_taken_and_one_past_it_is_refused_before_the_body_comes(over: int) -> None:
    body = msgspec.msgpack.encode(frames.Outcome(1, 1, "x" * 50))
    decoder = frames.FrameDecoder(frame_bytes_max=len(body) - over)
    prefix = len(body).to_bytes(4, "little")
    if over:
        with pytest.raises(ProtocolError, match="announced"):
            decoder.feed(prefix)
        with pytest.raises(ProtocolError, match="at most"):
            frames.encode([frames.Outcome(1, 1, "x" * 50)], len(body) - 1)
    else:
        assert decoder.feed(prefix + body) == [frames.Outcome(1, 1, "x" * 50)]


def test_a_text_that_is_not_utf_8_is_refused_as_all_else_that_is_no_frame() -> None:
    data = frames.encode([frames.Hello(1, 1, "frontend", True)])
    with pytest.raises(ProtocolError, match="no frame"):
        frames.FrameDecoder().feed(data.replace(b"frontend", b"front\xffnd"))


@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_frame_are_an_error(body: bytes) -> None:
    decoder = frames.FrameDecoder()
    try:
        decoded = decoder.feed(len(body).to_bytes(4, "little") + body)
    except ProtocolError:
        return
    assert len(decoded) == 1 and isinstance(decoded[0], msgspec.Struct)


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40), st.integers(0, 2**30))
def test_a_region_outside_its_segment_is_refused(offset: int, length: int, segment_bytes: int) -> None:
    region = frames.Region(1, 1, offset, length)
    inside = offset >= 0 and length > 0 and offset + length <= segment_bytes
    if inside:
        frames.check_region(region, segment_bytes)
    else:
        with pytest.raises(ProtocolError, match="outside"):
            frames.check_region(region, segment_bytes)
