"""The server of play.py in a thread of the test, with a small untrained model, and a client for it."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.live.models import LiveModel
from midi2wave.live.server import PlayServer, make_server
from midi2wave.live.session import BLOCK_HEADER
from tests.helpers.synthesis_models import build, make_config

TIMEOUT_SECONDS = 20
# A system's buffers hold many seconds of sound.
SMALL_BUFFER_BYTES = 8192
SETTINGS = {"temperature": 0.9, "guidance": 1.0, "seed": 3}


def small_model(**data: Any) -> LiveModel:
    """A model as `build` makes it."""
    config = make_config(**data)
    checkpoint = LoadedCheckpoint(build(config), config, 0, "")
    return LiveModel("small", checkpoint, 0.9, 1.0, (), "float32", "config_play.json")


@contextlib.contextmanager
def running(server: PlayServer) -> Iterator[int]:
    """Serve within; yields the port."""
    sock, started = socket.create_server(("127.0.0.1", 0)), threading.Event()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)  # Of its connections, too.
    web_server = make_server(server, started.set)
    thread = threading.Thread(target=web_server.run, args=([sock],))
    thread.start()
    try:
        assert started.wait(TIMEOUT_SECONDS)
        yield sock.getsockname()[1]
    finally:
        web_server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        sock.close()
        assert not thread.is_alive()


@dataclass
class Client:
    """A client as the page is one, without sound."""

    socket: ClientConnection

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def receive(self) -> Any:
        """The next message: the object of a text, or stream, first sample and samples of a block."""
        item = self.socket.recv(TIMEOUT_SECONDS)
        if isinstance(item, str):
            return json.loads(item)
        return (*BLOCK_HEADER.unpack(item[: BLOCK_HEADER.size]), np.frombuffer(item[BLOCK_HEADER.size :], "<i2"))

    def receive_until(self, condition: Callable[[Any], bool]) -> Any:
        """The first message for which the condition holds; earlier ones are dropped."""
        while not condition(message := self.receive()):
            pass
        return message

    def answer(self, kind: str) -> Any:
        """The next text of a type."""
        return self.receive_until(lambda message: isinstance(message, dict) and message["type"] == kind)

    def play(self, stream: int, n_samples: int | None = None, **request: Any) -> tuple[dict[str, Any], np.ndarray]:
        """Play a file; returns the start message and the samples, in order."""
        self.send(type="play", stream=stream, model=0, settings=SETTINGS, **request)
        start = self.answer("started")
        end = start["n_samples"] if n_samples is None else n_samples
        self.send(type="credit", stream=stream, until=end)
        parts, expected = [], start["first"]
        while expected < end:
            message = self.receive()
            if not isinstance(message, dict):
                assert message[:2] == (stream, expected)
                parts.append(message[2])
                expected += len(message[2])
        return start, np.concatenate(parts)


@contextlib.contextmanager
def client(port: int, path: str = "/socket", **options: Any) -> Iterator[Client]:
    """A client that has received the first message."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    sock.connect(("127.0.0.1", port))
    options = {"origin": f"http://127.0.0.1:{port}", "max_size": None, "sock": sock} | options
    with connect(f"ws://127.0.0.1:{port}{path}", **options) as connection:
        one = Client(connection)
        one.answer("hello")
        yield one


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
