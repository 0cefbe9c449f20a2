"""The protocol of play.py: live playing, files, and clients that do wrong, none of which harms another."""

import contextlib
import http.client
import io
import random

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import play
from midi2wave.live import session as session_module
from midi2wave.live import stream as stream_module
from midi2wave.live.pieces import MAX_FILE_BYTES, WARMUP_SECONDS
from midi2wave.live.server import MAX_CLIENTS, PAGE_FOLDER, PlayServer
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.pieces import performance_frames, performance_seconds
from midi2wave.sampling.synthesis import synthesize
from tests.helpers.live_server import SETTINGS, client, running, small_model, wait_for
from tests.helpers.pipeline import melody, write_midi

OPTIONS = SamplingOptions(temperature=0.9, guidance=1.0, seed=3, threads=1)


@pytest.fixture(scope="module")
def server():
    model = small_model()
    play.warm_up(model, threads=1)  # The first call compiles the sampler, for longer than a client waits.
    return PlayServer([model], threads=1)


@pytest.fixture(scope="module")
def port(server):
    with running(server) as number:
        yield number


@pytest.fixture(scope="module")
def song(tmp_path_factory) -> bytes:
    return write_midi(tmp_path_factory.mktemp("song") / "song.mid", melody(3, 0.4)).read_bytes()


def get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.content = response.read()
    connection.close()
    return response


def offline(server: PlayServer, performance: Performance, n_frames: int | None = None) -> np.ndarray:
    """What the library generates of a performance, int16 [T]."""
    checkpoint = server.models[0].checkpoint
    n_frames = n_frames or performance_frames(performance_seconds(performance, 2.0), 250)
    data = checkpoint.config.data_config
    return np.concatenate(
        list(synthesize(checkpoint.model, [performance], n_frames, data, OPTIONS, streams=[0])), axis=1
    )[0]


def test_live_keys_sound_at_the_sample_that_is_sent_back(port, server):
    with client(port) as page:
        page.send(type="live", stream=7, model=0, settings=SETTINGS)
        start = page.answer("started")
        assert start["stream"] == 7 and start["lead_ms"] == pytest.approx(12)  # Of the stack 8, of the upsampling 4.
        blocks, placed = [], None
        page.send(type="credit", stream=7, until=2000)
        page.send(type="key", pitch=69, velocity=100, time=1.5)
        while sum(map(len, blocks)) < 2000:
            message = page.receive()
            if not isinstance(message, dict):
                assert message[:2] == (7, sum(map(len, blocks)))
                blocks.append(message[2])
            elif message["type"] == "placed":
                placed = message
        assert placed["pitch"] == 69 and placed["time"] == 1.5 and placed["sample"] % 16 == 0
        live, onset = np.concatenate(blocks), placed["sample"] / 4000
    one = np.array([onset])
    performance = Performance(one, np.array([np.inf]), np.array([69]), np.array([100]), {})
    np.testing.assert_array_equal(live, offline(server, performance, len(live) // 16))


def test_a_file_gives_the_samples_of_offline_generation(port, server, song):
    with client(port) as page:
        page.socket.send(song)
        opened = page.answer("opened")
        performance = read_midi(io.BytesIO(song))
        assert [note[2] for note in opened["notes"]] == performance.pitch.tolist()
        start, samples = page.play(1)
        assert start["kind"] == "play" and start["audio_hz"] == 4000
        assert page.answer("ended")["stream"] == 1
    np.testing.assert_array_equal(samples, offline(server, performance))


def test_a_file_can_begin_anywhere(port, server, song):
    """From a sample within it on, the stream is one that began a second earlier from silence."""
    with client(port) as page:
        page.socket.send(song)
        first = round(1.5 * 4000) + 5
        start, samples = page.play(2, from_sample=first)
        assert start["first"] == first // 16 * 16 and len(samples) == start["n_samples"] - start["first"]
        begin = start["first"] // 16 - round(WARMUP_SECONDS * 250)
    checkpoint = server.models[0].checkpoint
    blocks = synthesize(
        checkpoint.model,
        [read_midi(io.BytesIO(song))],
        start["n_samples"] // 16 - begin,
        checkpoint.config.data_config,
        OPTIONS,
        streams=[0],
        first_frames=[begin],
    )
    np.testing.assert_array_equal(samples, np.concatenate(list(blocks), axis=1)[0, -len(samples) :])


def test_only_what_is_allowed_is_generated(port, server, song):
    """A file is generated up to the credit, and a new stream takes the place of the old one."""
    with client(port) as page:
        page.socket.send(song)
        _, samples = page.play(1, n_samples=100)
        assert 100 <= len(samples) <= 100 + 32 * 16
        start, samples = page.play(2)
        assert len(samples) == start["n_samples"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed message: Invalid JSON"),
        ("[1]", "malformed message"),
        ('{"type": "key", "pitch": 60}', "malformed message: key.velocity: Field required"),
        ('{"type": "key", "pitch": 200, "velocity": 1}', "malformed message: key.pitch"),
        ('{"type": "pedal", "pedal": 1, "value": 1}', "malformed message: pedal.pedal"),
        ('{"type": "credit", "stream": 1, "until": 1e999}', "malformed message"),
        ('{"type": "stop", "more": 1}', "malformed message: stop.more"),
        ('{"type": "live", "stream": 1, "model": 0, "settings": {"temperature": NaN}}', "malformed message"),
        ("[" * 3000, "malformed message"),
        ("x" * 5000, "a message of 5000 characters"),
    ],
)
def test_a_malformed_message_closes_its_connection_only(port, text, reason):
    with client(port) as other, client(port) as page:
        page.socket.send(text)
        with pytest.raises(ConnectionClosed) as closed:
            page.answer("nothing")
        assert closed.value.rcvd.code == 1008 and closed.value.rcvd.reason.startswith(reason)
        other.send(type="live", stream=1, model=0, settings=SETTINGS)
        assert other.answer("started")["stream"] == 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"type": "live", "model": 3, "settings": SETTINGS}, "model 3: expected one of 0 to 0"),
        ({"type": "play", "model": 0, "settings": SETTINGS}, "there is no MIDI file to play"),
        ({"type": "live", "model": 0, "settings": {**SETTINGS, "labels": ["year=1"]}}, "has no input for year=1"),
    ],
)
def test_what_cannot_be_played_is_answered(port, request_, reason):
    with client(port) as page:
        page.send(stream=9, **request_)
        refused = page.answer("refused")
        assert refused["stream"] == 9 and reason in refused["reason"]
        page.send(type="live", stream=10, model=0, settings=SETTINGS)
        assert page.answer("started")["stream"] == 10


@pytest.mark.parametrize(
    "data", [b"", b"MThd", random.Random(0).randbytes(2000), b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0"]
)
def test_files_that_are_no_music_are_answered(port, data):
    with client(port) as page:
        page.socket.send(data)
        assert page.answer("not_opened")["reason"]
        page.send(type="stop")
        page.socket.ping().wait(5)


def test_settings_of_a_file_change_its_notes(port, server, song):
    with client(port) as page:
        page.socket.send(song)
        _, plain = page.play(1)
        settings = {**SETTINGS, "tempo": 2.0, "transposition": 12, "velocity_scale": 0.5}
        page.send(type="play", stream=2, model=0, settings=settings)
        start = page.answer("started")
        assert start["n_samples"] == pytest.approx(8000 + (len(plain) - 8000) / 2, abs=32)
        page.send(type="play", stream=3, model=0, settings=SETTINGS | {"transposition": 24})
        assert page.answer("started")
        page.send(type="play", stream=4, model=0, settings=SETTINGS | {"transposition": 25})
        with pytest.raises(ConnectionClosed):
            page.answer("started")


def test_an_upload_of_60_mb_is_cut_off(port):
    with client(port) as other, client(port) as page:
        with contextlib.suppress(ConnectionClosed):
            page.socket.send(bytes(60_000_000))
        with pytest.raises(ConnectionClosed) as closed:
            page.answer("opened")
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009  # Message too big.
        other.socket.send(bytes(MAX_FILE_BYTES + 1))
        assert "expected at most 2000000" in other.answer("not_opened")["reason"]


@pytest.mark.parametrize("origin", [None, "null", "http://[", "http://example.com", "http://127.0.0.1:1"])
def test_pages_of_another_origin_are_refused(port, origin):
    with pytest.raises(InvalidStatus) as refused, client(port, origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_ten_clients_are_served_or_refused_with_a_reason(port, server, song):
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(client(port)) for _ in range(MAX_CLIENTS)]
        for _ in range(10 - MAX_CLIENTS):
            with pytest.raises(ConnectionClosed) as closed, client(port):
                pass
            assert closed.value.rcvd.code == 1013 and "all 4 places are taken" in closed.value.rcvd.reason
        for page in pages:
            page.socket.send(song)
        samples = [page.play(1)[1] for page in pages]
    assert all((one == samples[0]).all() for one in samples)
    wait_for(lambda: not server.sessions)


@pytest.mark.parametrize("politely", [True, False])
def test_a_client_that_leaves_stops_its_thread(port, server, song, politely):
    with client(port) as page:
        (session,) = server.sessions
        page.socket.send(song)
        page.play(1, n_samples=500)
        page.send(type="credit", stream=1, until=2**40)
        if not politely:
            page.socket.socket.close()
    assert session.join(10)
    wait_for(lambda: not server.sessions)


def test_a_client_that_reads_nothing_harms_nobody(port, server):
    """Its thread waits for it. Its keys wait too, until there are too many."""
    with client(port) as other, client(port, max_queue=1) as page:
        page.send(type="live", stream=1, model=0, settings=SETTINGS)
        page.send(type="credit", stream=1, until=2**40)
        wait_for(lambda: any(session.outgoing.full() for session in server.sessions))
        other.send(type="live", stream=1, model=0, settings=SETTINGS)
        assert other.answer("started")
        page.send(type="play", stream=2, model=0, settings=SETTINGS)  # There is no file: the answer waits, too.
        page.socket.socket.close()
    wait_for(lambda: not server.sessions)


def test_too_many_keys_close_the_connection(port):
    with client(port) as page:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(session_module.MAX_WAITING_EVENTS + 2):
                page.send(type="key", pitch=60, velocity=60)
        with pytest.raises(ConnectionClosed) as closed:
            page.answer("nothing")
        assert closed.value.rcvd.code == 1008 and "keys and pedals wait" in closed.value.rcvd.reason


def test_a_live_stream_without_keys_pauses(port, monkeypatch):
    monkeypatch.setattr(session_module, "IDLE_SECONDS", 0.05)
    with client(port) as page:
        page.send(type="live", stream=1, model=0, settings=SETTINGS)
        page.send(type="credit", stream=1, until=2**40)
        assert page.answer("idle")["stream"] == 1
        page.send(type="key", pitch=60, velocity=60)
        # Said, since the client may have sent this key before it knew of the pause.
        assert page.answer("awake")["stream"] == 1
        assert page.answer("placed")


def test_a_live_stream_ends_after_its_longest_time(port, monkeypatch, capfd):
    monkeypatch.setattr(stream_module, "MAX_LIVE_SECONDS", 1)
    with client(port) as page:
        page.send(type="live", stream=1, model=0, settings=SETTINGS)
        page.send(type="credit", stream=1, until=2**40)
        assert page.answer("ended")["stream"] == 1
        page.send(type="live", stream=2, model=0, settings=SETTINGS)
        assert page.answer("started")["stream"] == 2
    assert "Traceback" not in capfd.readouterr().err


def test_after_a_failed_generation_others_are_played(port, monkeypatch, capfd):
    def fail(*_args):
        raise ZeroDivisionError("of the test")

    with client(port) as page:
        with monkeypatch.context() as broken:
            broken.setattr(session_module, "sampling_options", fail)
            page.send(type="live", stream=1, model=0, settings=SETTINGS)
            assert "the generation failed" in page.answer("refused")["reason"]
        page.send(type="live", stream=2, model=0, settings=SETTINGS)
        assert page.answer("started")["stream"] == 2
    assert "ZeroDivisionError: of the test" in capfd.readouterr().err


def test_the_page_and_nothing_else_is_served(port):
    page = get(port, "/")
    assert page.status == 200 and page.content == (PAGE_FOLDER / "index.html").read_bytes()
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for path in ("/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "/page/index.html", "//etc/passwd", "/.git"):
        assert get(port, path).status == 404, path
    hosts = ("localhost:1", "127.0.0.2", "[::1]:1", "example.com", "127.0.0.1.example.com", "[", "")
    assert [get(port, "/", Host=host).status for host in hosts] == [200] * 3 + [403] * 4


def test_a_token_is_needed_where_one_is_set():
    with running(PlayServer([small_model()], threads=1, token="right")) as port:
        assert [get(port, path).status for path in ("/", "/?token=wrong", "/?token=right")] == [403, 403, 200]
        assert get(port, "/?token=right", Host="piano.local").status == 200
        with pytest.raises(InvalidStatus), client(port):
            pass
        with client(port, path="/socket?token=right") as page:
            page.send(type="stop")
