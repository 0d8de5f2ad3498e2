"""Streams under weather: random segments, stalls, pauses and ends, many connections at once on the one read buffer."""

from __future__ import annotations

import contextlib
import random
import ssl
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost

from mailgw.edge import stream
from tests.edge.ends import VERSIONS, Far, HalfRecorder, Recorder, Source
from tests.edge.test_stream import StreamCase

SEEDS = 4
"""Storms."""
CONNECTIONS = 8
"""In each of them."""
STEPS = 120
"""What happens on each connection before it ends."""


class Weather:
    """One connection, and what happens to it."""

    def __init__(self, dice: random.Random, protocol: Any, far: Far) -> None:
        self.dice, self.protocol, self.far = dice, protocol, far
        self.written = self.sent = b""
        self.ending = ""
        self.source: Source | None = None

    def step(self) -> None:
        """Something happens."""
        self.far.segment = self.dice.choice((1, 7, 1000, 65536))
        getattr(self, self.dice.choice(("write", "write", "send", "send", "stall", "pause", "produce", "pump")))()

    def data(self) -> bytes:
        return self.dice.randbytes(self.dice.choice((1, 100, 16384, 16385, 100_000, 400_000)))

    def write(self) -> None:
        if self.source is None:
            data = self.data()
            self.written += data
            self.protocol.transport.write(data)

    def produce(self) -> None:
        if self.source is not None and not self.source.blocks:
            self.source = None
        elif self.source is None:
            blocks = [self.data() for _ in range(5)]
            self.written += b"".join(blocks)
            self.source = Source(self.protocol.transport, blocks)
            self.protocol.transport.registerProducer(self.source, True)
            self.source.resumeProducing()

    def send(self) -> None:
        data = self.data()
        self.sent += data
        if self.far.tls is None:
            self.far._unsent += data
        else:
            self.far.tls.write(data)

    def stall(self) -> None:
        self.far.reading = not self.far.reading

    def pause(self) -> None:
        transport = self.protocol.transport
        transport.pauseProducing() if self.dice.random() < 0.5 else transport.resumeProducing()

    def pump(self) -> None:
        self.far.pump(self.dice.choice((1, 1000, 200_000)))

    def end(self) -> None:
        """One of the ways in which connections end."""
        self.ending = self.dice.choice(("lose", "abort", "reset", "finish", "notify"))
        self.far.reading = True
        self.far.segment = 65536
        self.protocol.transport.resumeProducing()
        match self.ending:
            case "lose":
                self.protocol.transport.loseConnection()
            case "abort":
                self.protocol.transport.abortConnection()
            case "reset":
                self.far.reset()
            case "notify" if self.far.tls is not None:
                self.far.notify()
            case _:
                self.ending = "finish"

    def settle(self) -> None:
        """The far end reads and writes until the connection is gone."""
        with contextlib.suppress(ssl.SSLError):
            self.far.pump()
        if self.ending == "finish" and not self.far._unsent:
            with contextlib.suppress(OSError):
                self.far.finish()
            self.ending = "finished"
        if isinstance(self.protocol, HalfRecorder) and "read lost" in self.protocol.log and not self.far.tls:
            self.protocol.transport.loseConnection()


class StormTests(StreamCase):
    """Whatever happens, nothing is lost, invented or out of order, and every connection ends once."""

    async def test_storms(self) -> None:
        """Random ones, the same in every run."""
        self.patch(stream, "LINGER", 0.5)
        for seed in range(SEEDS):
            dice = random.Random(seed)
            weathers = [await self.connection(dice) for _ in range(CONNECTIONS)]
            for number in range(STEPS):
                for weather in weathers:
                    weather.step()
                if number % 10 == 0:
                    await self.turns(1)
            for weather in weathers:
                weather.end()
            while any(weather.protocol.reason is None for weather in weathers):
                for weather in weathers:
                    weather.settle()
                await self.turns(1)
            for weather in weathers:
                with contextlib.suppress(ssl.SSLError):
                    weather.far.pump()
                self.check(weather, f"seed {seed}, {weather.ending}")

    async def connection(self, dice: random.Random) -> Weather:
        kind = dice.choice((Recorder, HalfRecorder))
        if dice.random() < 0.3:
            return Weather(dice, *self.pair(kind))
        secured = await self.secured(dice.choice(VERSIONS), dialled=dice.random() < 0.5, recorder=kind)
        return Weather(dice, *secured)

    def check(self, weather: Weather, what: str) -> None:
        protocol, far = weather.protocol, weather.far
        self.assertEqual(protocol.log.count("lost"), 1, what)
        self.assertTrue(weather.sent.startswith(protocol.got), what)
        self.assertTrue(weather.written.startswith(far.got), what)
        self.assertFalse(protocol.transport._reads or protocol.transport._writes, what)
        if weather.ending == "lose":
            self.assertEqual(len(far.got), len(weather.written), what)
        if weather.ending in ("notify", "finished") and "lost" in protocol.log and weather.source is None:
            self.assertEqual(len(protocol.got), len(weather.sent), what)
        clean = weather.ending in ("lose", "notify") or (weather.ending == "finished" and far.tls is None)
        self.assertIsInstance(protocol.reason, ConnectionDone if clean else ConnectionLost, what)
