"""An app with `--auth`, its processes and real clients: pyarrow, ADBC, pyzmq, `fs.connect`."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pytest
import zmq
from pyarrow import flight

import flightserve as fs
from flightserve.client.retrying import Unreachable
from flightserve.errors import NotFound, PermissionDenied, Unauthenticated
from flightserve.identity.editing import add_principal, revoke_principal
from tests.control.served import Served
from tests.support import eventually

ROWS = pa.record_batch({"a": [1, 2]})
ROLES = '[roles.clerk]\ncall = ["Shop"]\nquery = ["people"]\n'
PASSWORD = "a long password"


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[str, str, dict[str, str]]]:
    """The app's Flight address, its file, and tokens."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp", ignore_cleanup_errors=True) as directory:
        file = Path(directory) / "auth.toml"
        file.write_text(ROLES)
        tokens = {name: add_principal(str(file), name, [role]) for name, role in (("root", "admin"), ("ann", "clerk"))}
        add_principal(str(file), "bob", ["clerk"], PASSWORD)
        ports = [f"--{protocol}-port=0" for protocol in ("flight", "zmq")]
        which = ("--auth", str(file), "--no-http", "--no-grpc", *ports)
        command = ("flightserve", "run", "tests.identity.shop:app", *which)
        with Served(Path(directory), command=command) as served:
            addresses = served.wait_ready().addresses
            tokens["zmq"] = addresses["zmq"]
            yield addresses["flight"], str(file), tokens


def test_a_client_says_who_it_is_and_goes_by_flight(shop: tuple[str, str, dict[str, str]]) -> None:
    address, _, tokens = shop
    with pytest.raises(Unauthenticated):
        fs.connect(address)
    with pytest.raises(Unreachable, match="say who they are"):
        fs.connect(address, way="memory", token=tokens["root"])
    for who in ({"token": tokens["ann"]}, {"username": "bob", "password": PASSWORD}):
        with fs.connect(address, **who) as client:
            assert client.way == "flight" and client.deployments() == ["Shop", "lake"]
            assert client.Shop.price(ROWS) == ROWS
            with pytest.raises(PermissionDenied, match=r"may not call Stock\.count, which Shop\.order calls"):
                client.Shop.order(ROWS)
            assert client.sql("SELECT count(*) AS n FROM people").to_pylist() == [{"n": 3}]
            assert client.sql("SHOW TABLES").to_pylist() == [{"name": "people"}]
            with pytest.raises(NotFound, match="secret does not exist"):
                client.sql("FROM secret")
    with fs.connect(address, token=tokens["root"]) as client:
        assert client.Shop.order(ROWS) == ROWS and client.sql("FROM secret").num_rows == 1

    async def call() -> Any:
        async with fs.connect_async(address, token=tokens["ann"]) as client:
            return await client.Shop.price(ROWS)

    assert asyncio.run(call()) == ROWS


def test_adbc_logs_in(shop: tuple[str, str, dict[str, str]]) -> None:
    for password in (PASSWORD, "wrong"):
        options = {"username": "bob", "password": password}
        if password == "wrong":
            with pytest.raises(adbc_driver_manager.Error, match="UNAUTHENTICATED"):
                counted(shop[0], options)
        else:
            assert counted(shop[0], options) == [(2,)]


def counted(address: str, options: dict[str, str]) -> Any:
    with adbc.connect(address, db_kwargs=options, autocommit=True) as made, made.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM people WHERE id > ?", parameters=[1])
        return cursor.fetchall()


def test_a_dealer_says_it_in_each_message(shop: tuple[str, str, dict[str, str]]) -> None:
    _, _, tokens = shop
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROWS.schema) as writer:
        writer.write_batch(ROWS)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 20_000)
        dealer.connect(tokens["zmq"])
        codes = []
        for said in ({}, {"authorization": f"Bearer {tokens['ann']}"}, {"authorization": f"Bearer {tokens['ann']}x"}):
            header = {"deployment": "Shop", "method": "price", **said}
            dealer.send_multipart([json.dumps(header).encode(), sink.getvalue().to_pybytes()])
            codes.append(json.loads(dealer.recv_multipart()[0])["code"])
    assert codes == ["UNAUTHENTICATED", "OK", "UNAUTHENTICATED"]


def test_who_is_revoked_is_refused_in_an_open_stream_as_well(shop: tuple[str, str, dict[str, str]]) -> None:
    address, file, _ = shop
    token = add_principal(file, "tom", ["clerk"])
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
    with flight.connect(address) as client:

        def known() -> bool:
            try:
                return len(list(client.list_actions(options))) > 0
            except flight.FlightUnauthenticatedError:
                return False

        eventually(known, what="the file is taken up")
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("Shop", "price"), options)
        writer.begin(ROWS.schema)

        def goes() -> bool:
            try:
                writer.write_batch(ROWS)
                return bool(reader.read_chunk().data == ROWS)
            except (pa.ArrowInvalid, OSError, flight.FlightError):
                return False

        assert goes()
        revoke_principal(file, "tom")
        eventually(lambda: not goes(), what="the stream ended")
        with pytest.raises(flight.FlightUnauthenticatedError):
            writer.close()
        assert not known()
