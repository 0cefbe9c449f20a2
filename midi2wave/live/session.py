"""What one client of play.py plays: a thread that generates, one stream at a time, and what it sends.

The client decides how far ahead a stream is generated (`Credit`). Events wait in a bounded queue until the next block.
What is sent waits in a bounded queue too: a client that reads nothing stops its own thread, and no other one.
"""

import asyncio
import concurrent.futures
import json
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from midi2wave.live.messages import Credit, Key, LiveEvent, Pedal, PlayFile, PlayLive
from midi2wave.live.models import LiveModel
from midi2wave.live.pieces import Take, labels_of, sampling_options
from midi2wave.live.stream import LiveStream
from midi2wave.midi.performance import Performance
from midi2wave.utils.errors import InputError

MAX_WAITING_EVENTS = 1000
# For so long the samples of a live stream that were played since the client's last message are estimated by the clock.
MAX_ESTIMATED_SECONDS = 0.05
# Without keys for so long a live stream pauses: it would compute silence.
IDLE_SECONDS = 60.0
SECONDS_BETWEEN_SPEEDS = 0.5
# Of the measured speed, the share of older measurements that remains after a block of so many seconds.
SPEED_MEMORY_SECONDS = 1.0
POLL_SECONDS = 0.1
# Before the samples of a block, its stream and first sample.
BLOCK_HEADER = struct.Struct("<II")

Request = PlayLive | PlayFile
Outgoing = str | bytes


class SessionOverload(Exception):
    """A client sends more events than can be played."""


class _Speed:
    """Seconds of audio generated in a second of computing, of the last second or so."""

    def __init__(self) -> None:
        self._audio = self._computing = 0.0
        self._last_report = 0.0
        self._noted_first = False

    def note(self, audio_seconds: float, computing_seconds: float) -> float | None:
        """Note a block; returns the speed if it is time to report it."""
        if not self._noted_first:  # It also prepares the stream, and loads compiled code.
            self._noted_first, self._last_report = True, time.monotonic()
            return None
        keep = max(0.0, 1 - audio_seconds / SPEED_MEMORY_SECONDS)
        self._audio = keep * self._audio + audio_seconds
        self._computing = keep * self._computing + computing_seconds
        now = time.monotonic()
        if now - self._last_report < SECONDS_BETWEEN_SPEEDS:
            return None
        self._last_report = now
        return self._audio / max(self._computing, 1e-9)


class Session:
    """One client.

    Attributes:
        outgoing: JSON texts and binary blocks for the client, in order.
        performance: The MIDI file that it sent last.
    """

    def __init__(self, models: list[LiveModel], threads: int, queue_size: int = 32) -> None:
        self._models, self._threads = models, threads
        self.outgoing: asyncio.Queue[Outgoing] = asyncio.Queue(queue_size)
        self.performance: Performance | None = None
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._request: Request | None = None  # the one to be played
        self._done: Request | None = None  # the last one that was played
        self._credit, self._credit_time = 0, 0.0
        self._events: deque[LiveEvent] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._thread.start()

    def play(self, request: Request | None) -> None:
        """Play this instead of what is played; None: nothing. Raises InputError for what there is not."""
        if request and request.model >= len(self._models):
            raise InputError(f"model {request.model}: expected one of 0 to {len(self._models) - 1}")
        if isinstance(request, PlayFile) and self.performance is None:
            raise InputError("there is no MIDI file to play; send one first")
        with self._changed:
            # A copy: the same request again is another one.
            self._request, self._credit = request and request.model_copy(), 0
            self._events.clear()
            self._changed.notify_all()

    def add_event(self, event: LiveEvent) -> None:
        """Queue a key or pedal of the live stream. Raises SessionOverload if too many wait."""
        with self._changed:
            if len(self._events) >= MAX_WAITING_EVENTS:
                raise SessionOverload(f"more than {MAX_WAITING_EVENTS} keys and pedals wait to be played")
            self._events.append(event)
            self._changed.notify_all()

    def add_credit(self, credit: Credit) -> None:
        """Allow more samples of the stream that is played."""
        with self._changed:
            if self._request and credit.stream == self._request.stream:
                self._credit, self._credit_time = credit.until, time.monotonic()
                self._changed.notify_all()

    def close(self) -> None:
        """End the generation; its thread ends within a block."""
        with self._changed:
            self._closed, self._request = True, None
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for the thread after `close`; returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (request := self._next_request()) is not None:
            try:
                if isinstance(request, PlayLive):
                    self._play_live(request)
                else:
                    self._play_file(request)
            except InputError as error:
                self._send({"type": "refused", "stream": request.stream, "reason": str(error)})
            except Exception:  # The page must not wait for ever, nor for what it asks for next.
                traceback.print_exc()
                reason = "the generation failed; the terminal of play.py says why"
                self._send({"type": "refused", "stream": request.stream, "reason": reason})
            self._done = request

    def _next_request(self) -> Request | None:
        """Wait for something to play; None when the session is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (self._request is not None and self._request is not self._done)
            )
            return None if self._closed else self._request

    def _is_current(self, request: Request) -> bool:
        return self._request is request

    def _play_live(self, request: PlayLive) -> None:
        model = self._models[request.model]
        options = sampling_options(model, request.settings, self._threads)
        lead = request.lead_ms
        midi_hz = model.checkpoint.config.data_config.midi_hz
        stream = LiveStream(
            model.checkpoint,
            options,
            global_labels=labels_of(model, request.settings),
            lead_frames=None if lead is None else round(lead * midi_hz / 1000),
        )
        self._send_start(request, audio_hz=stream.sample_rate, lead_ms=1000 * stream.lead_frames / midi_hz)
        last_event, speed = time.monotonic(), _Speed()
        with closing(stream):
            while self._is_current(request) and stream.n_frames < stream.max_frames:
                if self._play_events(stream):
                    last_event = time.monotonic()
                elif time.monotonic() - last_event > IDLE_SECONDS:
                    self._send({"type": "idle", "stream": request.stream})
                    self._wait(request, lambda: bool(self._events), None)
                    # The client may have sent its key before it knew of the pause.
                    self._send({"type": "awake", "stream": request.stream})
                    last_event = time.monotonic()
                    continue
                n_samples = stream.n_frames * stream.hop
                if not self._wait_for_credit(request, n_samples, stream.sample_rate, estimate=True):
                    continue  # Events that have come while this thread waited are played first.
                self._send_block(request, n_samples, stream.next_block, speed, stream.sample_rate)
        self._send_end(request)

    def _play_events(self, stream: LiveStream) -> int:
        """Let the waiting events take effect; returns how many they are."""
        with self._changed:
            events = tuple(self._events)
            self._events.clear()
        for event in events:
            if isinstance(event, Key) and event.velocity:
                sample = stream.press(event.pitch, event.velocity)
                self._send({"type": "placed", "pitch": event.pitch, "time": event.time, "sample": sample})
            elif isinstance(event, Key):
                stream.release(event.pitch)
            elif isinstance(event, Pedal):
                stream.move_pedal(event.pedal, event.value)
            else:
                stream.release_all()
        return len(events)

    def _play_file(self, request: PlayFile) -> None:
        model = self._models[request.model]
        assert self.performance is not None  # Else `play` has refused it.
        take = Take.prepare(model, self.performance, request.settings, self._threads)
        data, hop = model.checkpoint.config.data_config, model.checkpoint.model.hop
        first = min(request.from_sample, take.n_samples) // hop * hop
        self._send_start(request, audio_hz=data.audio_hz, n_samples=take.n_samples, first=first)
        speed = _Speed()
        with closing(take.blocks(first)) as blocks:
            while self._is_current(request) and first < take.n_samples:
                if self._wait_for_credit(request, first, data.audio_hz, estimate=False):
                    first += self._send_block(request, first, lambda: next(blocks), speed, data.audio_hz)
        self._send_end(request)

    def _wait_for_credit(self, request: Request, n_samples: int, audio_hz: int, *, estimate: bool) -> bool:
        """Wait until more than n_samples may be generated, or events have come, or the stream ends."""
        elapsed = min(time.monotonic() - self._credit_time, MAX_ESTIMATED_SECONDS) if estimate else 0.0
        missing = n_samples - self._credit - elapsed * audio_hz
        if missing < 0:
            return True
        may_pass = estimate and self._credit > 0 and elapsed < MAX_ESTIMATED_SECONDS
        credit = self._credit
        seconds = min(missing / audio_hz + 1e-4, MAX_ESTIMATED_SECONDS) if may_pass else None
        self._wait(request, lambda: self._credit != credit or bool(self._events), seconds)
        return False

    def _wait(self, request: Request, condition: Callable[[], bool], seconds: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._request is not request or condition(), seconds)

    def _send_block(
        self, request: Request, first: int, generate: Callable[[], np.ndarray], speed: _Speed, audio_hz: int
    ) -> int:
        """Generate a block and send it; returns its length."""
        started = time.perf_counter()
        block = generate()
        measured = speed.note(len(block) / audio_hz, time.perf_counter() - started)
        if len(block):
            self._put(BLOCK_HEADER.pack(request.stream, first) + block.astype("<i2").tobytes(), request)
        if measured is not None:
            self._send({"type": "speed", "stream": request.stream, "speed": round(measured, 2)})
        return len(block)

    def _send_start(self, request: Request, **facts: Any) -> None:
        self._send({"type": "started", "stream": request.stream, "kind": request.type, **facts})

    def _send_end(self, request: Request) -> None:
        if self._is_current(request):
            self._send({"type": "ended", "stream": request.stream})

    def _send(self, message: dict[str, Any]) -> None:
        self._put(json.dumps(message), None)

    def _put(self, item: Outgoing, request: Request | None) -> None:
        """Queue an item for the client, from this session's thread; wait while the queue is full.

        Args:
            item: The item.
            request: It is dropped when this one is not played any more; None: only when the session is closed.
        """
        if self._closed:
            return
        try:
            future = asyncio.run_coroutine_threadsafe(self.outgoing.put(item), self._loop)
        except RuntimeError:  # The server ends, and its event loop is closed.
            return
        while True:
            try:
                return future.result(POLL_SECONDS)
            except concurrent.futures.TimeoutError:
                if self._closed or (request and not self._is_current(request)):
                    future.cancel()
                    return
