"""Play a model: a page with a piano in the browser, for keys, MIDI keyboards and MIDI files.

    python play.py
    python play.py --model pretrained/rendered_reference.safetensors --port 9000 --no-browser
    python play.py --model runs/maestro pretrained/disklavier.safetensors        # the page offers both
    python play.py --host 0.0.0.0                                                # for a phone in the same network

The page plays on http://127.0.0.1:8765 and needs nothing from elsewhere. Only this machine can open it. With --host it
is for others, too, whose address must contain the token that the command prints. Ctrl-C ends it.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during imports needs no traceback.

import argparse
import gc
import ipaddress
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING

from midi2wave.utils import signals
from midi2wave.utils.cli import log, make_plain_parser, run
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from midi2wave.live.models import LiveModel

# The page begins with the first one.
DEFAULT_MODELS = (
    "pretrained/grand.safetensors",
    "pretrained/rendered.safetensors",
    "pretrained/rendered_reference.safetensors",
    "pretrained/disklavier.safetensors",
)
LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_PORT = 65535
# Threads that compute Python code give way to those that play after so long.
SWITCH_SECONDS = 0.001


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    if not 0 <= args.port <= MAX_PORT:
        raise InputError(f"--port {args.port}: expected 0 (any free one) to {MAX_PORT}")
    if args.clients < 1:
        raise InputError(f"--clients {args.clients}: expected 1 or more")
    sock = _listen(args.host, args.port)
    with sock:
        try:
            _serve(args, sock)
        except KeyboardInterrupt as error:  # The usual end.
            log("stopped")
            return signals.exit_code(error.number if isinstance(error, signals.Interrupted) else signal.SIGINT)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_plain_parser(__doc__)
    add = parser.add_argument
    model_help = "a .safetensors file, a run folder or a checkpoint's folder; several can be chosen on the page"
    add("--model", nargs="+", default=list(DEFAULT_MODELS), metavar="MODEL", help=model_help)
    add("--port", type=int, default=DEFAULT_PORT, help=f"default {DEFAULT_PORT}; 0: any free one")
    host_help = f"address to listen on (default {LOOPBACK}: this machine only); others need the token that is printed"
    add("--host", default=LOOPBACK, help=host_help)
    add("--no-browser", action="store_true", help="print the address only")
    add("--clients", type=int, default=4, help="how many pages may play at the same time (default 4)")
    add("--threads", type=int, default=0, help="threads of a stream; 0 (default): as many as help")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N: where the conditioning is computed")
    return parser


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # "::" is all addresses, also those of IPv4.
        dualstack = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=dualstack)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise InputError(
            f"--host {host} --port {port}: {reason}; choose another --port, or an address of this machine"
        ) from error


def _serve(args: argparse.Namespace, sock: socket.socket) -> None:
    """Load the models and serve until a signal ends it."""
    log("loading")
    import torch

    from midi2wave.live.models import load_models
    from midi2wave.live.server import PlayServer, make_server

    models = load_models(args.model, args.device)
    # The conditioning of a block is many small operations, which several threads make slower.
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_SECONDS)
    warm_up(models[0], args.threads)
    exempt_from_garbage_collection()
    token = new_token(sock)
    url = _url(args.host, sock, token)

    def announce() -> None:
        log(f"{', '.join(model.path for model in models)}; Ctrl-C ends it")
        print(url, flush=True)
        if not args.no_browser:
            threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()

    make_server(PlayServer(models, args.threads, token, args.clients), announce).run([sock])


def warm_up(model: "LiveModel", threads: int) -> None:
    """Generate a moment: the very first call compiles the sampler, for which no player should wait."""
    from midi2wave.live.messages import Settings
    from midi2wave.live.pieces import sampling_options
    from midi2wave.live.stream import LiveStream

    settings = Settings(
        temperature=model.temperature,
        sampling=model.sampling,
        guidance=model.guidance,
        history_level=model.history_level,
        seed=0,
    )
    stream = LiveStream(model.checkpoint, sampling_options(model, settings, threads))
    stream.press(60, 64)
    for _ in range(3):
        stream.next_block()
    stream.close()


def exempt_from_garbage_collection() -> None:
    """Let garbage collections leave out what is loaded: a full one would search it for 0.1 s, within a block."""
    gc.collect()
    gc.freeze()


def new_token(sock: socket.socket) -> str:
    """What the page's address must contain: nothing on the loopback interface, else a random text."""
    is_loopback = ipaddress.ip_address(sock.getsockname()[0].split("%")[0]).is_loopback
    return "" if is_loopback else secrets.token_urlsafe(16)


def _url(host: str, sock: socket.socket, token: str) -> str:
    """The address of the page."""
    address, port = sock.getsockname()[:2]
    # On the loopback interface the server answers to addresses and to localhost, not to this machine's own name.
    name = host if token else address
    if ipaddress.ip_address(address.split("%")[0]).is_unspecified:
        name = _own_address() or name
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _own_address() -> str | None:
    """This machine's address in its network, if it has one. No packet is sent: a datagram socket connects without."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
            return probe.getsockname()[0]
        except OSError:
            return None


if __name__ == "__main__":
    run(main)
