"""The server of play.py: the page, and one WebSocket for each client.

It serves the files of the folder `page`, which it reads before, and nothing else. A page of another origin can neither
read it nor connect to it. Beyond the loopback interface a token is needed, which the URL has.
"""

import asyncio
import contextlib
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from midi2wave.live.messages import Credit, Key, Pedal, PlayFile, PlayLive, ReleaseAll, Stop, parse
from midi2wave.live.models import LiveModel
from midi2wave.live.pieces import MAX_FILE_BYTES, MAX_PIECE_SECONDS, read_upload
from midi2wave.live.session import Session, SessionOverload
from midi2wave.midi.performance import SUSTAIN, Performance
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    import uvicorn

PAGE_FOLDER = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_CLIENTS = 4
# A MIDI cable carries a thousand messages a second; the page adds one for every 8 ms that it has played.
MAX_MESSAGES_PER_SECOND = 2000
# Of the reason in a WebSocket's closing frame (RFC 6455, section 5.5).
MAX_REASON_BYTES = 123
# Closing codes of RFC 6455, section 7.4.
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(eq=False)
class PlayServer:
    """The application of play.py.

    Attributes:
        models: What can be played; the first one by default.
        threads: Threads of a stream; 0: as many as help.
        token: What the URL must contain; empty: nothing.
        max_clients: How many clients may play at the same time.
        sessions: Those that do.
    """

    models: list[LiveModel]
    threads: int = 0
    token: str = ""
    max_clients: int = MAX_CLIENTS
    sessions: set[Session] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in PAGE_FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
        routes = [
            Route("/", self._page),
            Route("/{name}", self._file),
            WebSocketRoute("/socket", self._socket),
        ]
        self.app = Starlette(routes=routes)

    def _refusal(self, connection: HTTPConnection) -> str:
        """Why a request is refused; empty: it is not."""
        host = connection.headers.get("host", "")
        # Without a token, a name of another site that resolves to this machine must not reach it (DNS rebinding).
        if not self.token and not _is_loopback(host):
            return "this server answers to its own address only"
        token = connection.query_params.get("token", "")
        if self.token and not secrets.compare_digest(token.encode(), self.token.encode()):
            return "the address lacks the token that play.py printed; copy the whole address"
        return ""

    async def _page(self, request: Request) -> Response:
        if reason := self._refusal(request):
            return PlainTextResponse(reason, 403, HEADERS)
        return self._response("index.html")

    async def _file(self, request: Request) -> Response:
        return self._response(request.path_params["name"])

    def _response(self, name: str) -> Response:
        if name not in self._files:
            return PlainTextResponse("no such file", 404, HEADERS)
        return Response(self._files[name], headers=HEADERS, media_type=MEDIA_TYPES[Path(name).suffix])

    async def _socket(self, websocket: WebSocket) -> None:
        origin = websocket.headers.get("origin", "").partition("://")[2]
        if self._refusal(websocket) or not origin or origin != websocket.headers.get("host"):
            await websocket.close()  # Before it is accepted: the answer is 403.
            return
        await websocket.accept()
        if len(self.sessions) >= self.max_clients:
            await _close(websocket, TRY_AGAIN_LATER, f"all {self.max_clients} places are taken; close another page")
            return
        session = Session(self.models, self.threads)
        self.sessions.add(session)
        sender = asyncio.create_task(_send(websocket, session))
        try:
            await session.outgoing.put(json.dumps(self._hello()))
            await self._receive(websocket, session)
        except (InputError, SessionOverload) as error:
            await _close(websocket, POLICY_VIOLATION, str(error))
        except WebSocketDisconnect:
            pass
        finally:
            self.sessions.discard(session)
            session.close()
            sender.cancel()

    def _hello(self) -> dict[str, Any]:
        return {
            "type": "hello",
            "models": [model.describe() for model in self.models],
            "max_file_bytes": MAX_FILE_BYTES,
            "max_seconds": MAX_PIECE_SECONDS,
        }

    async def _receive(self, websocket: WebSocket, session: Session) -> None:
        """Do what the client's messages say, until it leaves. Raises InputError for a malformed one."""
        second, n_messages = 0, 0
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            now = int(time.monotonic())
            n_messages = n_messages + 1 if now == second else 1
            second = now
            if n_messages > MAX_MESSAGES_PER_SECOND:
                raise SessionOverload(f"more than {MAX_MESSAGES_PER_SECOND} messages in a second")
            if message.get("text") is not None:
                await _obey(session, message["text"])
            else:
                await _open_file(session, message["bytes"])


def _is_loopback(host: str) -> bool:
    """Whether a Host header is localhost, or an address of the loopback interface; no other name is."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:  # Another name, or a malformed header.
        return False


async def _obey(session: Session, text: str) -> None:
    """Do what a message says. Raises InputError if it is malformed; what cannot be played is answered."""
    message = parse(text)
    if isinstance(message, Credit):
        session.add_credit(message)
    elif isinstance(message, Key | Pedal | ReleaseAll):
        session.add_event(message)
    elif isinstance(message, Stop):
        session.play(None)
    elif isinstance(message, PlayLive | PlayFile):
        try:
            session.play(message)
        except InputError as error:
            answer = {"type": "refused", "stream": message.stream, "reason": str(error)}
            await session.outgoing.put(json.dumps(answer))


async def _open_file(session: Session, data: bytes) -> None:
    """Read a MIDI file that the client sent, and answer with its notes, or the reason why it cannot be played."""
    session.play(None)
    try:
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"a file of {len(data)} bytes, expected at most {MAX_FILE_BYTES}")
        # Not in the event loop, which sends nothing to the other clients meanwhile.
        session.performance, answer = await run_in_threadpool(_read_file, data)
    except InputError as error:
        answer = json.dumps({"type": "not_opened", "reason": str(error)})
    await session.outgoing.put(answer)


def _read_file(data: bytes) -> tuple[Performance, str]:
    """The performance in a MIDI file, and what the page is to know of it. Raises InputError."""
    performance = read_upload(data)
    columns = (performance.onset, performance.offset, performance.pitch, performance.velocity)
    answer = {
        "type": "opened",
        "notes": [[round(value, 4) for value in note] for note in zip(*(c.tolist() for c in columns), strict=True)],
        "pedal": performance.pedals[SUSTAIN].round(4).tolist(),
        "remarks": list(performance.dropped),
    }
    return performance, json.dumps(answer)


async def _send(websocket: WebSocket, session: Session) -> None:
    """Send what the session has for the client, as fast as the client reads."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            item = await session.outgoing.get()
            await (websocket.send_text(item) if isinstance(item, str) else websocket.send_bytes(item))
    # The client has left. Whoever waits for a place in the queue must find one, else the session would never end.
    while True:
        await session.outgoing.get()


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close a connection with a reason, cut to what a closing frame holds."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.close(code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))


def make_server(server: PlayServer, on_start: Callable[[], None]) -> "uvicorn.Server":
    """The web server, whose `run` takes a listening socket and ends after a signal, or when `should_exit` is set.

    Args:
        server: The application.
        on_start: Called once when requests are answered.
    """
    import uvicorn

    class _Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for session in tuple(server.sessions):
                session.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        server.app,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=MAX_FILE_BYTES + 1,
        ws_max_queue=16,
        ws_per_message_deflate=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return _Server(config)
