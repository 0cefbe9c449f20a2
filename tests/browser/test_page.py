"""The page of play.py in a browser: keys, pedal, MIDI keyboards, files and downloads, and what the loudspeaker gets."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import inference
import play
from midi2wave.audio.io import read_pcm
from midi2wave.live import session as session_module
from midi2wave.live.models import load_models
from midi2wave.live.server import PlayServer
from midi2wave.live.stream import LiveStream
from tests.helpers.live_server import running, small_model, wait_for
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import call, write_midi

pytestmark = pytest.mark.browser

MODEL = "pretrained/rendered.safetensors"
HZ = 16000
A4 = 69
YEARS = ["year=2008", "year=2009"]
# The levels of the buffer, in order: seconds of the level, how long it lasts. Returns the target after each.
BUFFER_TARGET = """
const [levels, done] = arguments;
import("./buffer.js").then(({BufferTarget}) => {
  const target = new BufferTarget();
  let time = 0;
  done(levels.map(([level, seconds]) => {
    if (level === 0) target.noteDropout(time);
    for (const end = time + seconds; time < end - 1e-9; time += 0.008) target.note(level, time);
    return target.seconds;
  }));
});
"""
# Everything that the page sends from now on, in `sent`.
RECORD_SENT = """
window.sent = [];
const {connection} = midi2wave, send = connection.send;
connection.send = message => { sent.push(message); send.call(connection, message); };
"""
# A key that is sent before the page knows that the stream has paused.
KEY_BEFORE_IDLE = """
const {connection} = midi2wave, receive = connection.receive;
connection.receive = data => {
  if (typeof data === "string" && JSON.parse(data).type === "idle" && !window.wasIdle) {
    window.wasIdle = true;
    fakeMidi.play([0x90, 72, 80]);
  }
  receive.call(connection, data);
};
"""


@pytest.fixture(scope="module")
def server() -> PlayServer:
    models = [*load_models([str(ROOT / MODEL)], "cpu"), small_model(global_values=YEARS, history_level_input=True)]
    for model in models:
        play.warm_up(model, threads=1)
    return PlayServer(models, threads=1)


@pytest.fixture(scope="module")
def address(server: PlayServer) -> Iterator[str]:
    with running(server) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def page(browser: webdriver.Chrome, address: str, server: PlayServer) -> Iterator[webdriver.Chrome]:
    """The page, ready to play at guidance 1; nothing must be logged as an error."""
    browser.get(address)
    wait_for(lambda: text(browser, "status") == "Play a key, or drop a MIDI file.")
    set_value(browser, "guidance", 1)
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    browser.get("about:blank")
    wait_for(lambda: not server.sessions)  # Closing the page stops the work.


def text(page: webdriver.Chrome, name: str) -> str:
    return page.find_element(By.ID, name).text


def set_value(page: webdriver.Chrome, name: str, value: object) -> None:
    """Change a setting as its field does."""
    field = f"document.getElementById('settings').elements.{name}"
    page.execute_script(f"{field}.value = '{value}'; {field}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def press(page: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(page, duration=0).key_down(key).perform()


def release(page: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(page, duration=0).key_up(key).perform()


def captured(page: webdriver.Chrome) -> np.ndarray:
    """What the loudspeaker got since the last call; at the first call capturing begins, once there is sound."""
    script = """
    const done = arguments[0];
    midi2wave.player.addEventListener("captured", ({detail}) => done(Array.from(detail.values)), {once: true});
    midi2wave.player.post({type: "capture"});
    """
    return np.array(page.execute_async_script(script))


def sound(page: webdriver.Chrome, seconds: float) -> np.ndarray:
    """What the loudspeaker gets from now on, float64 [T]."""
    captured(page)
    samples: list[np.ndarray] = []
    wait_for(lambda: samples.append(captured(page)) or sum(map(len, samples)) >= seconds * HZ)
    return np.concatenate(samples)


def level_db(samples: np.ndarray, pitch: int) -> float:
    """Level of a pitch's fundamental in dB: in a band of half a semitone on both sides."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) / len(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / HZ)
    centre = 440 * 2 ** ((pitch - 69) / 12)
    band = (hz > centre * 2 ** (-1 / 24)) & (hz < centre * 2 ** (1 / 24))
    return 20 * np.log10(np.sqrt((spectrum[band] ** 2).sum()) + 1e-9)


def strongest_pitch(samples: np.ndarray) -> int:
    return max(range(48, 96), key=lambda pitch: level_db(samples, pitch))


def choose_model(page: webdriver.Chrome, number: int) -> None:
    script = "const list = document.getElementById('model'); list.selectedIndex = arguments[0];"
    page.execute_script(script + "list.dispatchEvent(new Event('change'))", number)


def is_live(page: webdriver.Chrome) -> bool:
    return page.execute_script("return midi2wave.live.latencies.length > 0")


def wait_played(page: webdriver.Chrome, seconds: float) -> None:
    """Wait until what happens now has had its effect on the sound for so long, however much is buffered."""
    target = page.execute_script(
        "const {live, player} = midi2wave; return live.now + player.state.buffered / live.rate"
    )
    target += page.execute_script("return midi2wave.live.leadMs") / 1000 + seconds
    wait_for(lambda: page.execute_script("return midi2wave.live.now") > target)


def test_a_typed_key_sounds_at_its_pitch_and_ends(page: webdriver.Chrome):
    press(page, "n")  # The lower row begins with C4: its sixth white key is A4.
    wait_for(lambda: is_live(page))
    pressed = sound(page, 0.4)
    release(page, "n")
    wait_played(page, 0.4)
    released = sound(page, 0.3)
    assert strongest_pitch(pressed) == A4
    assert level_db(released, A4) < level_db(pressed, A4) - 15
    latency = page.execute_script("return midi2wave.live.latencies")
    assert latency and all(value > 100 for value in latency)  # 104 ms are look-ahead.
    assert text(page, "latency").endswith(" ms") and text(page, "speed").endswith("real time")


def test_the_space_bar_is_the_pedal(page: webdriver.Chrome):
    """Half a second after its release a key sounds on, until the pedal comes up."""
    levels = []
    for pedal in (True, False):
        if pedal:
            press(page, Keys.SPACE)
        press(page, "n")  # The lower row begins with C4: its sixth white key is A4.
        wait_for(lambda: is_live(page))
        wait_played(page, 0.3)
        release(page, "n")
        wait_played(page, 0.4)
        levels.append(level_db(sound(page, 0.3), A4))
        if pedal:
            release(page, Keys.SPACE)
            wait_played(page, 0.4)
            levels.append(level_db(sound(page, 0.3), A4))
    with_pedal, pedal_up, without = levels
    assert with_pedal > max(pedal_up, without) + 10


def test_a_midi_keyboard_plays_with_velocity_and_half_pedal(page: webdriver.Chrome, server: PlayServer):
    page.find_element(By.ID, "midi").click()
    wait_for(lambda: text(page, "midi") == "Fake keyboard")
    page.execute_script("fakeMidi.play([0x90, 69, 33]); fakeMidi.play([0xB0, 64, 50]); fakeMidi.play([0x90, 72, 101])")
    wait_for(lambda: page.execute_script("return midi2wave.live.notes.length") == 2)
    assert page.execute_script("return midi2wave.live.notes.map(note => note.slice(2))") == [[69, 33], [72, 101]]
    assert page.find_element(By.CSS_SELECTOR, "[data-pitch='69']").get_attribute("class") == "white down"
    assert page.find_element(By.ID, "pedal").get_attribute("aria-pressed") == "false"  # Not down by half.
    page.execute_script("fakeMidi.play([0x90, 72, 0]); fakeMidi.play([0x80, 69, 0])")
    assert page.find_elements(By.CSS_SELECTOR, "#piano .down") == []


def test_keys_can_be_clicked_and_the_octave_shifted(page: webdriver.Chrome):
    key = page.find_element(By.CSS_SELECTOR, "[data-pitch='60']")
    assert key.get_attribute("aria-label") == "C 4"
    ActionChains(page, duration=0).click_and_hold(key).perform()
    wait_for(lambda: page.execute_script("return midi2wave.live.notes.map(note => note[2])") == [60])
    ActionChains(page, duration=0).release().perform()
    press(page, Keys.PAGE_UP)
    assert page.find_element(By.ID, "octave").text == "C5"
    press(page, "z")
    wait_for(lambda: page.execute_script("return midi2wave.live.notes.map(note => note[2])") == [60, 72])
    release(page, "z", Keys.PAGE_UP)


def test_settings_that_only_some_models_have(page: webdriver.Chrome, tmp_path: Path):
    """Labels, the level of the disturbance and the responses that a model offers; what is sent, and the command."""
    assert not page.find_elements(By.CSS_SELECTOR, "#labels select")
    assert not page.find_element(By.ID, "history").is_displayed()
    page.execute_script(RECORD_SENT)
    choose_model(page, 1)
    assert page.find_element(By.ID, "history").is_displayed()
    years = page.find_element(By.CSS_SELECTOR, "#labels select")
    assert [option.text for option in years.find_elements(By.TAG_NAME, "option")] == ["none", "2008", "2009"]
    leads = page.find_element(By.ID, "lead").find_elements(By.TAG_NAME, "option")
    assert [option.text for option in leads if option.is_enabled()] == ["as trained (12 ms ahead)", "immediate"]
    assert text(page, "lookahead") == "12 ms"
    press(page, "n")
    wait_for(lambda: is_live(page))
    release(page, "n")
    page.find_element(By.CSS_SELECTOR, "select[name=sampling] option[value=mean]").click()
    set_value(page, "history_level", -20)
    years.find_elements(By.TAG_NAME, "option")[2].click()
    requests = page.execute_script("return sent.filter(one => one.type === 'live').map(one => one.settings)")
    assert [(one["sampling"], one["history_level"], one["labels"]) for one in requests] == [
        ("random", -40, []),
        ("mean", -40, []),
        ("mean", -20, []),
        ("mean", -20, ["year=2009"]),
    ]
    wait_for(lambda: page.execute_script("return midi2wave.live.ready && midi2wave.player.state.position > 0"))
    page.find_element(By.ID, "file").send_keys(str(write_midi(tmp_path / "tune.mid", [(0.0, 0.25, 60, 80)])))
    wait_for(lambda: "inference_config.history_level=-20" in text(page, "command"))
    assert "inference_config.sampling=mean" in text(page, "command")
    assert "--global year=2009 " in text(page, "command")


def test_a_key_that_is_pressed_just_as_the_stream_pauses_sounds(page: webdriver.Chrome, monkeypatch):
    monkeypatch.setattr(session_module, "IDLE_SECONDS", 0.5)
    page.find_element(By.ID, "midi").click()
    wait_for(lambda: text(page, "midi") == "Fake keyboard")
    page.execute_script(KEY_BEFORE_IDLE)
    page.execute_script("fakeMidi.play([0x90, 69, 80]); fakeMidi.play([0x80, 69, 0])")
    wait_for(lambda: page.execute_script("return window.wasIdle"))
    wait_for(lambda: page.execute_script("return midi2wave.live.latencies.length") == 2)
    wait_for(lambda: page.execute_script("return midi2wave.live.asleep"))  # Again, after the same time.
    assert text(page, "status") in ("Playing live.", "Asleep. A key wakes the model.")


def test_the_page_says_that_the_machine_does_not_keep_up(page: webdriver.Chrome, monkeypatch):
    next_block = LiveStream.next_block
    monkeypatch.setattr(LiveStream, "next_block", lambda stream: time.sleep(0.06) or next_block(stream))
    press(page, "n")
    wait_for(lambda: text(page, "status").startswith("This machine is too slow for this model: 0."))
    wait_for(lambda: page.execute_script("return midi2wave.player.state.dropouts") > 1)
    buffered = page.execute_script("return midi2wave.live.bufferSeconds")
    assert buffered > 0.08  # That of the beginning.
    assert re.search(r"Drop-outs so far: \d+; \d+ ms of sound are buffered", text(page, "status"))
    monkeypatch.undo()
    script = "midi2wave.connection.emit('speed', {speed: 3}); midi2wave.player.dispatchEvent(new Event('dropout'));"
    wait_for(
        lambda: (
            page.execute_script(script) or text(page, "status").startswith("Other programs take this machine's time")
        )
    )
    release(page, "n")


def test_the_buffer_grows_before_a_drop_out_and_shrinks_slowly(page: webdriver.Chrome):
    levels = [[0.024, 100], [0.02, 0.09], [0.06, 19], [0, 0.09], [0.06, 21], [0.06, 600], [0.005, 600]]
    usual, low, after_low, dropout, later, long_later, always_low = page.execute_async_script(BUFFER_TARGET, levels)
    assert [usual, low, after_low, dropout] == pytest.approx([0.08, 0.09, 0.09, 0.11])
    assert 0.06 < later < 0.11 and long_later == pytest.approx(0.06) and always_low == pytest.approx(0.4)


def test_the_download_is_the_wav_of_inference(page: webdriver.Chrome, downloads: Path, tmp_path: Path):
    notes = [(0.0, 0.25, 60, 80), (0.2, 0.5, 67, 60)]
    midi = write_midi(tmp_path / "tune.mid", notes)
    page.find_element(By.ID, "file").send_keys(str(midi))
    wait_for(lambda: page.execute_script("return midi2wave.player.state.position") > 0)
    set_value(page, "seed", 7)
    page.find_element(By.ID, "download").click()
    wav = downloads / "tune.wav"
    wait_for(wav.is_file)
    settings = {"model_filename": ROOT / MODEL, "seed": 7, "guidance": 1, "sampler_threads": 1, "device": "cpu"}
    options = [part for name, value in settings.items() for part in ("--set", f"inference_config.{name}={value}")]
    done = call(inference, "-c", "rendered/config_play.json", *options, "--midi", midi, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert soundfile.info(wav).subtype == "PCM_16"
    np.testing.assert_array_equal(read_pcm(wav, HZ), read_pcm(tmp_path / "out/tune.wav", HZ))
    assert "seed=7" in text(page, "command")


def test_two_versions_of_a_file_can_be_compared(page: webdriver.Chrome, tmp_path: Path):
    midi = write_midi(tmp_path / "tune.mid", [(0.0, 1.9, 60, 80), (3.0, 3.9, 67, 60)])
    page.find_element(By.ID, "file").send_keys(str(midi))
    wait_for(lambda: page.execute_script("return midi2wave.files.take?.length > 0"))
    page.find_element(By.CSS_SELECTOR, "[name=version][value='1']").click()
    set_value(page, "tempo", 200)
    set_value(page, "transposition", 12)
    wait_for(lambda: page.execute_script("return midi2wave.files.take.available(midi2wave.files.now) > 2000"))
    lengths = page.execute_script("return midi2wave.files.takes.map(take => take.length / 16000)")
    assert lengths == pytest.approx([5.9, 3.95], abs=0.01)
    assert page.execute_script("return midi2wave.files.takes.map(take => take.settings.transposition)") == [0, 12]
    page.execute_script("midi2wave.files.seek(16000 * 3)")  # Beyond what is generated, perhaps.
    wait_for(lambda: page.execute_script("return midi2wave.files.now") > 16000 * 3)
    page.find_element(By.CSS_SELECTOR, "[name=version][value='0']").click()
    assert page.find_element(By.NAME, "tempo").get_attribute("value") == "100"
    page.find_element(By.ID, "stop").click()
    assert page.execute_script("return midi2wave.files.playing") is False


def test_a_file_that_is_no_music_is_refused_in_words(page: webdriver.Chrome, tmp_path: Path):
    (tmp_path / "letter.mid").write_text("Dear reader")
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "letter.mid"))
    wait_for(lambda: text(page, "status").startswith("This file cannot be played: "))
    (tmp_path / "huge.mid").write_bytes(bytes(60_000_000))
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "huge.mid"))
    wait_for(lambda: "expected at most 2000000" in text(page, "status"))


@pytest.mark.parametrize(("width", "theme"), [(1200, "light"), (1200, "dark"), (390, "dark")])
def test_the_page_fits_and_every_control_has_a_name(page: webdriver.Chrome, width: int, theme: str):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": theme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    choose_model(page, 1)  # It has every control.
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background.strip("rgb()").split(","))) < 384) == (theme == "dark")
        for element in page.find_elements(By.CSS_SELECTOR, "main button, main input, main select, canvas, header *"):
            if element.tag_name in ("button", "input", "select", "canvas"):
                assert element.accessible_name, element.get_attribute("outerHTML")
        loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert loaded and all(name.startswith(page.current_url) for name in loaded)  # Nothing from elsewhere.
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
