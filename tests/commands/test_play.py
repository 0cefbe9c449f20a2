"""play.py as a command: it prints its address, serves the page, and ends by a signal; wrong arguments are one line."""

import gc
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

import play
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import call

MODEL = "pretrained/rendered.safetensors"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_until_a_signal(number, code):
    command = [sys.executable, "play.py", "--model", MODEL, "--port", "0", "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as response:
            assert b"<title>midi2wave</title>" in response.read()
        process.send_signal(number)
        messages = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in messages and messages.endswith("stopped\n")


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = call(play, "--port", str(other.getsockname()[1]), "--no-browser")
    assert done.code == 2 and "Address already in use; choose another --port" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port 70000: expected 0 (any free one) to 65535"),
        (["--clients", "0"], "--clients 0: expected 1 or more"),
        (["--host", "no.such.host.invalid", "--port", "0"], "choose another --port, or an address of this machine"),
        (["--port", "0", "--model", "absent.safetensors"], "absent.safetensors"),
    ],
)
def test_wrong_arguments_are_one_line(options, message):
    done = call(play, "--no-browser", *options)
    assert done.code == 2 and message in done.err


def test_the_first_default_model_is_the_grand_piano():
    assert play.DEFAULT_MODELS[0] == "pretrained/grand.safetensors"
    assert all((ROOT / path).is_file() for path in play.DEFAULT_MODELS)


def test_garbage_collections_leave_out_what_is_loaded():
    n_before = len(gc.get_objects())
    try:
        play.exempt_from_garbage_collection()
        assert gc.get_freeze_count() > n_before / 2 and len(gc.get_objects()) < n_before / 2
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("host", "n_letters"), [("127.0.0.1", 0), ("localhost", 0), ("0.0.0.0", 22)])
def test_other_addresses_need_a_token(host, n_letters):
    with socket.create_server((host, 0)) as sock:
        tokens = {play.new_token(sock) for _ in range(3)}
    assert {len(token) for token in tokens} == {n_letters} and len(tokens) == (3 if n_letters else 1)
