"""The listening page: the shipped one names what there is and states licences; the command makes such a page."""

import json
import re
import urllib.parse

import numpy as np
import pytest
import soundfile
import soxr
from matplotlib import image

from benchmarks import listen, listen_page
from benchmarks.listen_list import GAIN, read_list
from midi2wave.config import DEFAULT_HISTORY_LEVEL
from midi2wave.data.sampled_instrument import load_instrument
from midi2wave.data.sampler import play_samples
from midi2wave.data.synthesizers import AUDIO_HZ as RENDERED_HZ
from midi2wave.midi.performance import SUSTAIN, Performance
from midi2wave.midi.reader import read_midi
from tests.helpers.listening import AUDIO_HZ, SECONDS, ListeningPage, write_list
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import (
    assert_no_partial_files,
    assert_refused,
    call,
    modification_times,
    read_files,
)

DOCS = ROOT / "docs"
ALLOWED_LICENCES = ("CC BY", "MIT")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A list, the folder of its page, and how the command ended."""
    folder = tmp_path_factory.mktemp("listen")
    path = write_list(folder)
    return path, folder / "out", call(listen, "--list", path, "--out", folder / "out", "--json")


@pytest.fixture
def copy(tmp_path):
    """A list whose page is not made yet."""
    return write_list(tmp_path)


@pytest.fixture(params=["shipped", "made"])
def out(request, made):
    """The folder of a page."""
    return DOCS if request.param == "shipped" else made[1]


def edit(path, text, replacement):
    content = path.read_text(encoding="utf-8")
    assert text in content
    path.write_text(content.replace(text, replacement, 1), encoding="utf-8")


def test_a_page_loads_its_own_files_and_no_others(out):
    """Nothing from elsewhere, nothing that is missing, and the folder has nothing that the page does not name."""
    page = ListeningPage(out / listen_page.PAGE_NAME)
    loaded = page.values("audio", "src") + page.values("img", "src")
    assert all((out / urllib.parse.unquote(name)).is_file() for name in loaded)
    assert all(urllib.parse.urlsplit(name).scheme == "" and name.startswith("audio/") for name in loaded)
    assert len(set(loaded)) == len(loaded) == 2 * len(page.sounds)
    assert page.values("link", "href") == ["data:,"] and page.values("script", "src") == [None]
    text = (out / listen_page.PAGE_NAME).read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|fetch\(|import\(|srcset", text)
    there = {f"audio/{path.name}" for path in (out / "audio").iterdir()}
    records = {f"audio/{name}.json" for name in (*read_names(out), "listen")}
    assert there == set(loaded) | records


def read_names(out):
    return [product["name"] for product in json.loads((out / "audio/listen.json").read_text())["products"]]


def test_every_player_has_a_label_and_a_licence(out):
    page = ListeningPage(out / listen_page.PAGE_NAME)
    labels = []
    for elements, texts in page.sounds:
        (audio,) = [attributes for tag, attributes in elements if tag == "audio"]
        assert "controls" in audio and "autoplay" not in audio
        labels.append(audio["aria-label"])
        (link,) = [attributes for tag, attributes in elements if attributes.get("rel") == "license"]
        assert link["href"].startswith("https://")
        text = " ".join("".join(texts).split())
        licence, attribution = re.search(r"Licence of this sound: (.+?)\. Attribution: (.+)\.$", text).groups()
        assert licence.startswith(ALLOWED_LICENCES) and len(attribution) > 10
    assert len(set(labels)) == len(labels) == page.text.count("Licence of this sound") > 0
    assert all(page.values("img", "alt")) and page.values("html", "lang") == ["en"]
    names = [attributes.get("aria-label") for tag, attributes in page.elements if attributes.get("role") == "img"]
    assert all(names) and len(names) == len(page.values("section", "data-seconds"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    references = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert len(set(ids)) == len(ids) and set(references) <= set(ids)


def test_a_page_states_how_its_clips_were_made(out, made):
    clips = read_list(listen.LIST_PATH if out == DOCS else made[0])
    page = ListeningPage(out / listen_page.PAGE_NAME)
    text = " ".join(page.text.split())
    assert text.count("the piece was in the training data.") == out.samefile(made[1])
    levels = [clips.models[clip.model].history_level for clip in clips.clips.values()]
    assert text.count("history level") == sum(level != DEFAULT_HISTORY_LEVEL for level in levels)
    assert text.count("the piece was not in") == len(clips.clips) - out.samefile(made[1])
    for name, clip in clips.clips.items():
        model, piece = clips.models[clip.model], clips.pieces[clip.piece]
        sampling = ", mean of the distribution" if model.sampling == "mean" else ""
        settings = f"temperature {model.temperature}{sampling}, guidance {model.guidance}, seed {clip.seed}"
        assert all(words in text for words in (settings, piece.title, piece.licence, model.attribution, model.file))
        facts = json.loads((out / f"audio/{name}.json").read_text())
        assert ("stft_distance" in facts) == (clip.piano is not None)
        if clip.piano is not None:
            assert f"STFT distance of this clip: {facts['stft_distance']:.2f}" in text


def test_the_shipped_page_is_that_of_its_list(tmp_path):
    """If this fails, run python -m benchmarks.listen --report README.md, with --force to make all sounds again."""
    clips = read_list(listen.LIST_PATH)
    facts = {name: json.loads((DOCS / f"audio/{name}.json").read_text()) for name in clips.clips}
    listen_page.write_page(tmp_path, clips, facts)
    assert (tmp_path / "listen.html").read_text(encoding="utf-8") == (DOCS / "listen.html").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n".join(listen_page.report_lines(ROOT / "README.md", DOCS, clips)) in readme
    products = json.loads((DOCS / "audio/listen.json").read_text())["products"]
    assert {product["name"] for product in products} == clips.clips.keys()
    for product in products:
        clip = clips.clips[product["name"]]
        sources = {"weights": clips.models[clip.model].file, "notes": clips.pieces[clip.piece].file}
        assert {kind: product["made_from"][kind] for kind in sources} == {
            kind: listen.sha256(ROOT / file) for kind, file in sources.items()
        }
        assert facts[product["name"]]["seconds"] == clip.seconds and 10 <= clip.seconds <= 15


def test_the_shipped_files_are_small():
    sizes = {path: path.stat().st_size for path in (DOCS / "audio").iterdir()}
    assert sum(sizes.values()) <= listen.MAX_BYTES
    assert sum(size for path, size in sizes.items() if path.suffix == ".webp") <= listen.MAX_PICTURE_BYTES
    assert (DOCS / "listen.html").stat().st_size < 200_000


def test_the_sounds_are_those_of_model_and_piano(made):
    path, out, done = made
    assert done.code == 0 and done.result["clips"] == ["pair", "alone"] and done.result["made"] == 2
    facts = json.loads((out / "audio/pair.json").read_text())
    assert facts["audio_hz"] == AUDIO_HZ and facts["seconds"] == SECONDS
    truth, output = (soundfile.read(out / f"audio/pair_{kind}.mp3", dtype="float64") for kind in ("truth", "model"))
    assert truth[1] == output[1] == AUDIO_HZ and len(truth[0]) == len(output[0]) == SECONDS * AUDIO_HZ
    # The louder one of both has the peak, up to the error of the compression.
    assert max(np.abs(truth[0]).max(), np.abs(output[0]).max()) == pytest.approx(10 ** (listen.PEAK_DB / 20), rel=0.1)
    piano = load_instrument(path.parent / "instrument/piano.sfz", GAIN)
    song = read_midi(path.parent / "song.mid")
    stereo = play_samples(song, round(SECONDS * RENDERED_HZ), piano, RENDERED_HZ)
    rendered = soxr.resample(stereo.mean(axis=1), RENDERED_HZ, AUDIO_HZ, quality="HQ")
    before_fade = slice(0, round((SECONDS - listen.FADE_SECONDS) * AUDIO_HZ))
    expected = rendered[before_fade] * 10 ** (facts["gain_db"] / 20)
    assert np.abs(truth[0][before_fade] - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(truth[0][-5:]).max() < 0.02
    for kind in ("truth", "model"):
        picture = image.imread(out / f"audio/pair_{kind}.webp", format="webp")
        assert picture.shape[1] <= listen_page.PICTURE_COLUMNS and np.ptp(picture) > 100
    assert not list((out / "audio").glob("alone_truth*"))
    assert_no_partial_files(out)


def test_the_truth_itself_scores_zero(made):
    import midi2wave

    path, out, _ = made
    facts = json.loads((out / "audio/pair.json").read_text())
    assert facts["stft_distance"] > 0.5
    assert [octave["low_hz"] for octave in facts["noise_excess_db"]] == [50, 100, 200, 400, 800, 1600]
    model = midi2wave.load(read_list(path).models["tiny"].file, "cpu")
    pcm = (np.random.default_rng(0).standard_normal(AUDIO_HZ) * 2000).astype(np.int16)
    scores = listen._scores({"truth": pcm, "model": pcm}, model)
    assert scores["stft_distance"] == 0
    assert all(octave["percentile_10"] == 0 for octave in scores["noise_excess_db"])
    louder = listen._scores({"truth": pcm, "model": pcm * 2}, model)
    assert all(octave["percentile_10"] == pytest.approx(6.02, abs=0.01) for octave in louder["noise_excess_db"])


def test_only_what_changed_is_made_again(copy):
    out = copy.parent / "out"
    command = [listen, "--list", copy, "--out", out, "--json"]
    assert call(*command).result["made"] == 2
    files, times = read_files(out), modification_times(out)
    (out / "audio/alone_model.webp").unlink()
    assert call(*command).result["made"] == 1
    assert read_files(out) == files
    written = {name for name, time in modification_times(out).items() if time != times[name]}
    assert "audio/alone_model.mp3" in written and "audio/pair_model.mp3" not in written
    edit(copy, "seed = 3", "seed = 4")
    refused = call(*command)
    assert refused.code == 2 and "--force" in refused.result["failures"][0]["reason"]
    assert read_files(out) == files
    assert call(*command, "--force").result["made"] == 2
    changed = {name for name, content in read_files(out).items() if content != files[name]}
    assert {"listen.html", "audio/alone_model.mp3"} <= changed and "audio/pair_model.mp3" not in changed
    edit(copy, copy.read_text(encoding="utf-8").partition("[clips.alone]")[2], "")
    edit(copy, "[clips.alone]", "")
    assert call(*command).result["clips"] == ["pair"]
    assert not list((out / "audio").glob("alone*"))


def test_the_history_level_is_used_and_stated(tmp_path):
    path, out = write_list(tmp_path, history_level_input=True), tmp_path / "out"
    command = [listen, "--list", path, "--out", out]
    assert call(*command).code == 0
    assert "history level -40.0 dB" in ListeningPage(out / "listen.html").text
    sound = (out / "audio/alone_model.mp3").read_bytes()
    edit(path, "guidance = 1", "guidance = 1\nhistory_level = -20")
    assert call(*command).code == 2
    assert call(*command, "--force").code == 0
    assert "history level -20" in ListeningPage(out / "listen.html").text
    assert (out / "audio/alone_model.mp3").read_bytes() != sound


def test_a_piano_may_lie_elsewhere(copy):
    folder = copy.parent
    (folder / "instrument").rename(folder / "elsewhere")
    command = [listen, "--list", copy, "--out", folder / "out"]
    assert_refused(call(*command), "instrument/piano.sfz: no such file", "--piano sines=FILE")
    assert_refused(call(*command, "--piano", "organ=a.sfz"), "--piano organ=a.sfz", "NAME=FILE", "sines")
    assert not (folder / "out").exists()
    assert call(*command, "--piano", f"sines={folder}/elsewhere/piano.sfz").code == 0


def test_other_files_are_not_overwritten(copy):
    out = copy.parent / "out"
    out.mkdir()
    (out / "listen.html").write_text("mine")
    assert_refused(call(listen, "--list", copy, "--out", out, "--force"), "listen.html is there", "another --out")
    (out / "listen.html").unlink()
    (out / "audio").mkdir()
    (out / "audio/mine.mp3").write_text("mine")
    assert_refused(call(listen, "--list", copy, "--out", out, "--force"), "audio", "not empty")
    assert read_files(out) == {"audio/mine.mp3": b"mine"}


def test_the_table_of_a_page_is_replaced(copy):
    report = copy.parent / "page.md"
    command = [listen, "--list", copy, "--out", copy.parent / "out", "--report", report]
    report.write_text("no marks", encoding="utf-8")
    assert_refused(call(*command), "page.md", "sounds: begin")
    assert not (copy.parent / "out").exists()
    begin, end = listen.TABLE_MARKS
    report.write_text(f"before\n{begin}\nold\n{end}\nafter", encoding="utf-8")
    assert call(*command).code == 0
    lines = report.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert "| A song | [`sines`](out/audio/pair_truth.mp3) | [`tiny`](out/audio/pair_model.mp3) |" in lines
    assert "| A scale | - | [`tiny`](out/audio/alone_model.mp3) |" in lines


def test_too_much_for_a_repository_is_refused(copy, monkeypatch):
    monkeypatch.setattr(listen, "MAX_BYTES", 1000)
    assert_refused(call(listen, "--list", copy, "--out", copy.parent / "out"), "at most 0.001", "shorter clips")


@pytest.mark.parametrize(
    ("text", "replacement", "words"),
    [
        ("seconds = 1", "second = 1", ["clips.pair", "'second' is unknown", "did you mean 'seconds'"]),
        ("seconds = 1", "seconds = 1000", ["clips.pair.seconds = 1000", "30"]),
        ('piano = "sines"', 'piano = "sinus"', ["clips.pair.piano = 'sinus'", "expected sines"]),
        ('piece = "song"\n', "", ["clips.pair", "'piece' is missing", "name of a piece"]),
        ('renderer = "sampler"', 'renderer = "fluid"', ["pianos.sines.renderer", "fluidsynth"]),
        ('licence = "CC BY 3.0"', 'licence = ""', ["models.tiny.licence"]),
        ("https://creative", "http://creative", ["models.tiny.licence_url"]),
        ('training_pieces = ["scale"]', 'training_pieces = ["x"]', ["training_pieces", "'x'"]),
        ("[clips.pair]", "[clips.'../pair']", ["[clips.../pair]", "a to z"]),
        ("[clips.pair]", "[sounds.pair]", ["'sounds' is unknown", "models, pianos, pieces, clips"]),
        ("[clips.pair]", "[clips.pair", ["not valid TOML"]),
    ],
)
def test_mistakes_in_a_list_are_one_line(tmp_path, text, replacement, words):
    path = tmp_path / "list.toml"
    path.write_text(write_list_text(), encoding="utf-8")
    edit(path, text, replacement)
    assert_refused(call(listen, "--list", path, "--out", tmp_path / "out"), str(path), *words)


def write_list_text():
    from tests.helpers.listening import LICENSED, LIST

    return LIST.format(model="m.safetensors", piano="p.sfz", song="s.mid", licensed=LICENSED)


def test_lists_without_clips_or_files_are_refused(tmp_path):
    assert_refused(call(listen, "--list", tmp_path / "none.toml"), "none.toml: no such list", "--list")
    path = tmp_path / "list.toml"
    path.write_text("", encoding="utf-8")
    assert_refused(call(listen, "--list", path), "no clips", "[clips.NAME]")
    path.write_text(write_list_text(), encoding="utf-8")
    assert_refused(call(listen, "--list", path, "--out", tmp_path / "out"), "m.safetensors: no such file", "weights")


def test_a_piano_roll_shows_notes_and_pedal():
    performance = Performance(
        onset=np.array([0.5, 1.0, 3.0]),
        offset=np.array([0.8, 2.5, 4.0]),
        pitch=np.array([60, 72, 64]),
        velocity=np.array([127, 1, 64]),
        pedals={SUSTAIN: np.array([[0.6, 127.0], [1.5, 0.0], [1.8, 64.0], [5.0, 0.0]])},
    )
    roll = listen_page.piano_roll(performance, 2.0)
    key_down, sounding = ([(r.x, r.width) for r in rows] for rows in (roll.key_down, roll.sounding))
    assert key_down == pytest.approx(np.array([(0.5, 0.3), (1.0, 1.0)]))
    assert sounding == pytest.approx(np.array([(0.5, 1.0), (1.0, 1.0)]))
    assert (
        roll.key_down[0].y - roll.key_down[1].y == 12 and roll.key_down[0].opacity == 1 > roll.key_down[1].opacity > 0.3
    )
    assert [(r.x, r.width) for r in roll.pedal] == pytest.approx(np.array([(0.6, 0.9), (1.8, 0.2)]))
    middle_c = next(y for y, name in roll.octaves if name == "C4")
    assert roll.key_down[0].y < middle_c < roll.key_down[0].y + 1 <= roll.n_keys


def test_spectrograms_share_their_scale(tmp_path):
    """A sound at a tenth of the amplitude is darker by 20 of 80 dB, where the first one is the reference."""
    time = np.arange(AUDIO_HZ) / AUDIO_HZ
    pcm = (20000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    reference = listen_page.draw_spectrogram(tmp_path / "a.webp", pcm, AUDIO_HZ, None)
    assert listen_page.draw_spectrogram(tmp_path / "b.webp", pcm // 10, AUDIO_HZ, reference) == reference
    loud, soft = (image.imread(tmp_path / name, format="webp")[..., 1].max() for name in ("a.webp", "b.webp"))
    # The green of matplotlib's magma is 253 at 1 and 135 at 0.75.
    assert loud > 235 and soft == pytest.approx(135, abs=20)
    row = np.argmax(image.imread(tmp_path / "a.webp", format="webp")[..., :3].sum(axis=2).mean(axis=1))
    expected = (1 - np.log2(440 / 50) / np.log2(AUDIO_HZ / 2 / 50)) * 320
    assert row == pytest.approx(expected, abs=3)  # High frequencies are at the top.


def test_silence_has_a_picture(tmp_path):
    listen_page.draw_spectrogram(tmp_path / "a.webp", np.zeros(AUDIO_HZ, np.int16), AUDIO_HZ, None)
    assert image.imread(tmp_path / "a.webp", format="webp")[..., :3].max() < 10
