"""The campaign's own parts: what it sends can be sent again, and what it compares is what it should."""

import random
import sys

import pytest
import running

sys.path.insert(0, str(running.ROOT / "tests" / "attack"))

import streams
import watch
from streams import Answer, Case, Request

ALIVE = Answer(200, (("content-length", "18"),), b'{"status":"alive"}')
CLOSED = ALIVE._replace(headers=(("connection", "close"), ("content-length", "18")))
OTHER = Answer(400, (("content-length", "2"),), b"{}")


def case(*requests):
    return Case(list(requests), [], 0.0, "probe")


def test_a_seed_makes_the_same_case_again():
    for number in range(300):
        first, again = (streams.case(random.Random(f"s {number}"), number) for _ in range(2))
        assert first == again
        stream = b"".join(request.data for request in first.requests)
        assert b"".join(streams.torn(stream, first.cuts)) == stream


def test_every_place_of_a_request_has_its_turn():
    seen = set()
    for number in range(2000):
        cuts = streams.cuts(random.Random(number), number, 40)
        if len(cuts) == 1:
            seen.update(cuts)
    assert seen >= set(range(40))


def test_answers_are_told_apart_and_uids_left_out():
    data = b"HTTP/1.1 100 Continue\r\n\r\n"
    data += b'HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{"status":"alive"}' * 2
    data += b'HTTP/1.1 200 OK\r\ncontent-length: 23\r\n\r\n{"uid":"0123456789abc"}' + b"HTTP/1.1 2"
    found, rest = streams.answers(data, [b"0123456789abc"[:12]])
    assert found[:2] == [ALIVE, ALIVE]
    assert found[2].body == b'{"uid":"%bc"}' % streams.UID.encode()
    assert rest == b"HTTP/1.1 2"


@pytest.mark.parametrize(
    ("requests", "alone", "found", "is_wrong"),
    [
        ([True, True], [ALIVE, ALIVE], [ALIVE, ALIVE, CLOSED], False),
        ([True, True], [ALIVE, ALIVE], [ALIVE], True),
        ([True, True], [ALIVE, OTHER], [ALIVE, ALIVE], True),
        ([True, True], [ALIVE, ALIVE], [CLOSED], True),
        ([False, True], [ALIVE, ALIVE], [OTHER], False),
        ([True, True], [CLOSED, ALIVE], [CLOSED, ALIVE], True),
    ],
)
def test_what_a_stream_is_answered_is_what_each_is_answered_alone(requests, alone, found, is_wrong):
    made = case(*(Request(b"", is_framed) for is_framed in requests))
    assert bool(streams.differs_from_alone(made, alone, found)) == is_wrong


def test_a_request_in_chunks_may_be_the_last():
    made = case(Request(b"", is_framed=True, is_chunked=True), Request(b"", is_framed=True))
    assert not streams.differs_from_alone(made, [ALIVE, ALIVE], [CLOSED])
    assert not streams.differ(made, [CLOSED], [ALIVE, ALIVE])
    assert streams.differ(case(Request(b"")), [CLOSED], [ALIVE, ALIVE])


def test_half_a_line_of_a_journal_waits_for_its_other_half(tmp_path):
    path, read = tmp_path / "journal", {}
    path.write_bytes(b"one\ntw")
    assert watch.new_lines(path, read) == [b"one\n"]
    path.write_bytes(b"one\ntwo\n")
    assert watch.new_lines(path, read) == [b"two\n"]
