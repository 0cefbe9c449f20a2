"""Live playing in a browser: start, key-to-sound latency, drop-outs in a minute of two-handed playing.

    python -m benchmarks.live_playing                          as trained and fast, alone and beside a busy process
    python -m benchmarks.live_playing --busy 1 --seconds 60    beside one process that computes without end
    python -m benchmarks.live_playing --picture page.png       also a picture of the page

It needs chromium and chromedriver, and selenium (requirements-dev.txt). play.py and the browser are processes of their
own. The notes come from a MIDI keyboard that exists in the page only: two chords a second in the left hand, eight notes
a second in the right hand, with pedal. The latency is that of the page: from the key until the first sample of its note
leaves the audio output, as the browser states it. Headless Chromium has an output without a sound card.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.playing import busy_processes
from midi2wave.utils.cli import log, make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError

BROWSER_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1300")
START_TIMEOUT_SECONDS = 120
# Two hands: a keyboard that plays by the page's clock.
HANDS = """
const input = {id: "hands", name: "Two hands", onmidimessage: null};
navigator.requestMIDIAccess = async () => ({inputs: new Map([["hands", input]]), onstatechange: null});
window.playHands = seconds => {
  const send = (...data) => input.onmidimessage({data, timeStamp: performance.now()});
  const note = (pitch, velocity, ms) => { send(0x90, pitch, velocity); setTimeout(() => send(0x80, pitch, 0), ms); };
  const roots = [48, 45, 41, 43], scale = [0, 2, 4, 7, 9, 12, 14, 16];
  let beat = 0;
  const timer = setInterval(() => {
    const root = roots[Math.floor(beat / 16) % 4];
    if (beat % 16 === 0) { send(0xB0, 64, 0); setTimeout(() => send(0xB0, 64, 127), 60); }
    if (beat % 4 === 0) for (const step of [0, 7, 16]) note(root + step, 60 + (beat % 5) * 6, 450);
    note(root + 24 + scale[(beat * 5) % 8], 50 + (beat * 7) % 60, 110);
    beat += 1;
  }, 125);
  setTimeout(() => { clearInterval(timer); send(0xB0, 64, 0); window.handsDone = true; }, 1000 * seconds);
};
"""
RESULTS = """
return [allLatencies, midi2wave.player.state.dropouts, midi2wave.live.bufferSeconds, midi2wave.files.speed]
"""


def open_browser() -> Any:
    """A headless browser. Raises InputError if there is none."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        raise InputError("selenium is missing; pip install -r requirements-dev.txt") from None
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise InputError("chromium or chromedriver is missing; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*BROWSER_OPTIONS, "--autoplay-policy=no-user-gesture-required", "--mute-audio"):
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HANDS})
    return browser


def wait_until(browser: Any, script: str, seconds: float) -> None:
    """Wait until an expression of the page is true. Raises InputError after so many seconds."""
    end = time.monotonic() + seconds
    while not browser.execute_script(f"return Boolean({script})"):
        if time.monotonic() > end:
            raise InputError(f"the page is not ready after {seconds:.0f} s; look at it yourself: python play.py")
        time.sleep(0.02)


def measure(model: str, response: str, seconds: float, picture: Path | None) -> dict[str, Any]:
    """Start play.py and a browser, play, and measure."""
    browser = open_browser()
    started = time.monotonic()
    command = [sys.executable, "play.py", "--model", model, "--port", "0", "--no-browser"]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise InputError("play.py did not start (see above)")
            browser.get(address)
            wait_until(browser, "document.body.dataset.ready", START_TIMEOUT_SECONDS)
            browser.execute_script(f"document.getElementById('lead').value = '{response}'")
            browser.execute_script("document.getElementById('midi').click()")
            wait_until(browser, "document.getElementById('midi').textContent === 'Two hands'", 10)
            browser.execute_script(f"playHands({seconds})")
            wait_until(browser, "midi2wave.player.state.position > 0", START_TIMEOUT_SECONDS)
            start_seconds = time.monotonic() - started
            browser.execute_script("window.allLatencies = midi2wave.live.latencies; allLatencies.shift = () => {}")
            time.sleep(max(0.0, seconds - 2))
            if picture:
                browser.save_screenshot(str(picture))
            wait_until(browser, "window.handsDone", 30)
            latencies, dropouts, buffer_seconds, speed = browser.execute_script(RESULTS)
        finally:
            browser.quit()
            process.terminate()
    ordered = sorted(latencies)
    return {
        "model": Path(model).stem,
        "response": "as trained" if response == "full" else f"{response} ms ahead",
        "start_seconds": round(start_seconds, 1),
        "notes": len(ordered),
        "latency_ms": round(statistics.median(ordered)),
        "latency_95_ms": round(ordered[int(0.95 * len(ordered))]),
        "dropouts": dropouts,
        "buffer_ms": round(1000 * buffer_seconds),
        "speed": speed,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    titles = ["busy", "model", "response", "start to sound, s", "notes", "latency, ms", "95 % below, ms", "drop-outs"]
    titles += ["buffer at the end, ms", "x real time"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows)])


def _parser() -> argparse.ArgumentParser:
    parser = make_plain_parser(__doc__)
    parser.add_argument("--model", default="pretrained/rendered.safetensors", help="the model to play")
    parser.add_argument("--response", nargs="+", choices=("full", "16", "0"), default=["full", "16"])
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1], help="numbers of busy processes beside it")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the hands play")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="save a picture of the page of the last row")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the rows as one JSON list")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(argv)
    rows = []
    for n_busy in args.busy:
        for response in args.response:
            with busy_processes(n_busy):
                row = measure(args.model, response, args.seconds, args.picture)
            rows.append({"busy": n_busy, **row})
            log(json.dumps(rows[-1]))
    print_result(table(rows), rows, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
