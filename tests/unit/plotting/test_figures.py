"""Pictures and the listening page: what is drawn where, that odd material is drawn at all, and where links lead."""

import subprocess
import sys
import time
import tracemalloc
import urllib.parse
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection

from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import PEDALS, SUSTAIN, Performance, clip
from midi2wave.plotting import figures
from tests.helpers.paths import ROOT, SHARED

AUDIO_HZ = 16000


def made(notes=(), sustain=()) -> Performance:
    """A performance from (onset, offset, pitch, velocity) and sustain events (seconds, value)."""
    rows = np.array(sorted(notes, key=lambda n: (n[0], n[2])), np.float64).reshape(-1, 4)
    pedals = {c: np.empty((0, 2)) for c in PEDALS} | {SUSTAIN: np.array(sustain, np.float64).reshape(-1, 2)}
    return Performance(rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64), pedals)


def sine(hz: float, seconds: float, amplitude: float = 10000.0) -> np.ndarray:
    return np.rint(amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * AUDIO_HZ)) / AUDIO_HZ)).astype(np.int16)


def pixels(figure) -> np.ndarray:
    """The rendered figure, uint8 [rows from the top, columns, RGBA]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def image(figure, row: int) -> np.ndarray:
    """The decibels shown in one spectrogram row, [bands, columns]."""
    return np.asarray(figure.axes[row].images[0].get_array())


def rectangles(figure, label: str) -> np.ndarray:
    """(start, stop, pitch) of the bars in the roll, [N, 3]."""
    found = [c for c in figure.axes[0].collections if c.get_label() == label]
    assert len(found) == 1
    corners = np.array([path.vertices[:4] for path in found[0].get_paths()]).reshape(-1, 4, 2)
    return np.stack([corners[..., 0].min(1), corners[..., 0].max(1), corners[..., 1].mean(1)], axis=1)


# ---- the roll ----


def test_bars_end_with_the_key_and_pale_ones_with_the_damper():
    performance = made([(0.5, 1.0, 60, 40), (2.5, 2.75, 64, 90)], sustain=[(0.75, 127), (2.0, 0)])
    figure = figures.roll_figure(performance, 4.0)
    np.testing.assert_allclose(rectangles(figure, "held"), [[0.5, 1.0, 60], [2.5, 2.75, 64]])
    np.testing.assert_allclose(rectangles(figure, "sounding"), [[0.5, 2.0, 60], [2.5, 2.75, 64]])


def test_roll_is_cut_to_its_time_and_leaves_out_what_does_not_sound_in_it():
    notes = [(-2, -1, 50, 64), (-1, 0, 52, 64), (-1, -0.5, 60, 64), (-0.5, 0.5, 62, 64), (3, 9, 64, 64), (4, 5, 70, 64)]
    performance = made(notes, sustain=[(-0.7, 127), (-0.6, 0), (-0.55, 127)])
    figure = figures.roll_figure(performance, 4.0)
    np.testing.assert_allclose(rectangles(figure, "sounding"), [[0, 4, 52], [0, 4, 60], [0, 4, 62], [3, 4, 64]])
    np.testing.assert_allclose(rectangles(figure, "held"), [[0, 0, 52], [0, 0, 60], [0, 0.5, 62], [3, 4, 64]])


def test_velocity_is_the_colour():
    figure = figures.roll_figure(made([(0, 1, 60, 20), (1, 2, 62, 64), (2, 3, 64, 110)]), 3.0)
    picture, ax = pixels(figure), figure.axes[0]
    for middle, pitch, velocity in ((0.5, 60, 20), (1.5, 62, 64), (2.5, 64, 110)):
        x, y = ax.transData.transform((middle, pitch)).round().astype(int)
        low, high = figures.VELOCITY_RANGE
        expected = figures.VELOCITY_COLOURS((velocity - low) / (high - low))[:3]
        np.testing.assert_allclose(picture[-y, x, :3] / 255, expected, atol=0.01)


def test_a_short_note_in_a_long_piece_is_still_seen():
    figure = figures.roll_figure(made([(1800, 1800.05, 60, 64)]), 3600.0)
    start, stop, _ = rectangles(figure, "held")[0]
    assert stop - start == pytest.approx(3.6)


@pytest.mark.parametrize(
    ("events", "depth_at"),
    [
        ([], {0.5: 0, 3.5: 0}),
        ([(-3, 100)], {0.5: 100, 3.5: 100}),
        ([(1, 127), (2, 0), (3, 60)], {0.5: 0, 1.5: 127, 2.5: 0, 3.9: 60}),
    ],
)
def test_pedal_is_a_step_function(events, depth_at):
    figure = figures.roll_figure(made(sustain=events), 4.0)
    path = figure.axes[1].collections[0].get_paths()[0]
    for seconds, depth in depth_at.items():
        assert path.contains_point((seconds, depth - 1)) == (depth > 0)
        assert not path.contains_point((seconds, depth + 1))


# ---- spectrograms ----


@pytest.mark.parametrize("hz", [110.0, 440.0, 3000.0])
def test_a_tone_is_drawn_at_its_frequency_on_the_axis(hz):
    figure = figures.clip_figure(made(), 1.0, AUDIO_HZ, truth=sine(hz, 1.0))
    picture, ax = pixels(figure), figure.axes[2]
    x = int(ax.transData.transform((0.5, 8.0))[0])
    low, high = ax.transData.transform([(0, limit) for limit in ax.get_ylim()])[:, 1].astype(int)
    column = picture[::-1][low + 2 : high - 2, x, :3].sum(axis=1, dtype=int)
    bright = low + 2 + np.flatnonzero(column == column.max()).mean()
    octave = ax.transData.inverted().transform((x, bright + 0.5))[1]
    labels = {label.get_text(): at for label, at in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    expected = labels["1k"] + (labels["2k"] - labels["1k"]) * np.log2(hz / 1000)
    assert octave == pytest.approx(expected, abs=1 / 12)


def test_a_click_is_drawn_at_its_time():
    samples = np.zeros(4 * AUDIO_HZ, np.int16)
    samples[3 * AUDIO_HZ] = 20000
    decibels = image(figures.clip_figure(made(), 4.0, AUDIO_HZ, truth=samples), 2)
    loudest = np.flatnonzero(decibels.max(0) == decibels.max()).mean()
    assert (loudest + 0.5) / decibels.shape[1] * 4 == pytest.approx(3.0, abs=figures.COLUMN_SECONDS)


def test_one_scale_relative_to_the_truth():
    truth = sine(440, 2.0, amplitude=20000)
    figure = figures.clip_figure(made(), 2.0, AUDIO_HZ, truth, (truth / 10).astype(np.int16))
    assert image(figure, 2).max() == pytest.approx(0, abs=1e-9)
    assert image(figure, 3).max() == pytest.approx(-20, abs=0.01)
    assert {figure.axes[row].images[0].get_clim() for row in (2, 3)} == {(-80, 0)}
    assert image(figure, 2).min() == -80


def test_noise_60_db_down_is_visible():
    rng = np.random.default_rng(0)
    tone = sine(440, 2.0, amplitude=20000)
    figure = figures.clip_figure(made(), 2.0, AUDIO_HZ, tone, tone + rng.normal(0, 20, len(tone)).astype(np.int16))
    quiet, noisy = (np.median(image(figure, row)[-60:]) for row in (2, 3))
    assert quiet == -80
    # By the Hann window's coherent and noise gains -83 dB in a band as wide as its main lobe; these are 6 dB wider.
    assert noisy == pytest.approx(-77, abs=0.5)


@pytest.mark.parametrize("hz", [100, 1000, 4000])
def test_a_tone_has_the_same_level_wherever_it_is(hz):
    decibels = image(figures.clip_figure(made(), 1.0, AUDIO_HZ, sine(500, 1.0), sine(hz, 1.0)), 3)
    assert decibels[:, 100:150].max() == pytest.approx(0, abs=1.5)


def test_rows_without_audio_are_left_out():
    sound = sine(440, 1.0)
    sizes = []
    for truth, output, names in (
        (None, None, []),
        (sound, None, ["recording"]),
        (None, sound, ["model output"]),
        (sound, sound, ["recording", "model output"]),
    ):
        figure = figures.clip_figure(made(), 1.0, AUDIO_HZ, truth, output)
        assert [t.get_text() for ax in figure.axes for t in ax.texts] == names
        sizes.append(figure.get_size_inches()[1])
    assert sizes[0] < sizes[1] == sizes[2] < sizes[3]


def test_all_rows_share_the_time_axis_and_shorter_audio_ends_where_it_ends():
    figure = figures.clip_figure(made([(0, 1, 60, 64)]), 4.0, AUDIO_HZ, sine(440, 9.0), sine(440, 1.0))
    pixels(figure)
    assert all(ax.get_xlim() == (0, 4) for ax in figure.axes[:4])
    assert len({(ax.get_position().x0, ax.get_position().x1) for ax in figure.axes[:4]}) == 1
    assert [figure.axes[row].images[0].get_extent()[1] for row in (2, 3)] == [4.0, 1.0]


# ---- odd and long material ----


@pytest.mark.parametrize(
    ("truth", "output"),
    [
        (np.zeros(64000, np.int16), np.full(1, -32768, np.int16)),
        (np.ones(1, np.int16), np.zeros(64000, np.int16)),
        (np.zeros(64000, np.int16), np.zeros(64000, np.int16)),
        (np.zeros(0, np.int16), None),
    ],
)
def test_silence_and_scraps_of_audio_are_drawn(truth, output):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(figures.clip_figure(made(), 4.0, AUDIO_HZ, truth, output, prompt_end_seconds=1.0))


def test_an_hour_costs_little_more_than_a_clip():
    rng = np.random.default_rng(1)
    onset = np.sort(rng.uniform(0, 3600, 40000))
    notes = np.stack([onset, onset + 0.3, rng.integers(21, 109, 40000), rng.integers(1, 128, 40000)], axis=1)
    pedal = [(s, 127 * (i % 2)) for i, s in enumerate(np.arange(0, 3600, 0.5))]
    performance = made(notes.tolist(), pedal)
    audio = np.zeros(3600 * AUDIO_HZ, np.int16)  # untouched zeros take no memory
    tracemalloc.start()
    began = time.process_time()
    figure = figures.clip_figure(performance, 3600.0, AUDIO_HZ, audio, audio)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pixels(figure)
    assert time.process_time() - began < 20
    assert peak < 150e6  # the audio itself would be 115 MB as int16, 460 MB as float64
    assert image(figure, 2).shape[1] == figures.MAX_COLUMNS
    assert len(figure.axes[0].collections) == 3  # the black keys, the pale bars, the solid bars


@pytest.mark.parametrize(
    ("handover", "labels"),
    [
        (0.0, ["autoregressive"]),
        (0.05, ["teacher-forced", "autoregressive"]),
        (3.9, ["teacher-forced", "autoregressive"]),
        (99.0, ["teacher-forced"]),
        (None, []),
    ],
)
def test_handover_is_marked_in_every_row(handover, labels):
    figure = figures.clip_figure(made(), 4.0, AUDIO_HZ, sine(440, 4.0), sine(440, 4.0), prompt_end_seconds=handover)
    pixels(figure)
    assert [t.get_text() for t in figure.axes[0].texts] == labels
    lines = [ax.lines[0].get_xdata()[0] for ax in figure.axes[:4] if ax.lines]
    assert lines == ([] if handover is None else [min(handover, 4.0)] * 4)
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= 1200


# ---- curves ----


def lines(figure) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        [{}, {"step": 1}, {"loss": 3.0}],
        [{"step": 1, "loss": 3.0}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": None}],
        [{"step": 1, "validation_nll": 3.0}],
        [{"step": 1, "validation_nll_shuffled": 3.0, "learning_rate": 1e-3}],
        [{"step": s, "loss": 1.0} for s in range(200)],
    ],
)
def test_any_subset_of_metrics_is_drawn(metrics):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(figures.curves_figure(metrics))


def test_curves_follow_the_last_row_of_each_step():
    metrics = [
        {"step": 10, "loss": 5.0},
        {"step": 20, "loss": 9.0},
        {"step": 20, "loss": 4.0},
        {"step": 5, "loss": 6.0},
    ]
    drawn = lines(figures.curves_figure(metrics))["training"]
    np.testing.assert_allclose(drawn, [[5, 6], [10, 5], [20, 4]])


def test_the_training_loss_is_smoothed_without_bending_its_ends():
    metrics = [{"step": s, "loss": 2.0 + (-1) ** s} for s in range(200)]
    drawn = lines(figures.curves_figure(metrics))["training"][:, 1]
    np.testing.assert_allclose(drawn, 2.0, atol=0.34)


def test_the_conditioning_gap_is_shaded_where_both_curves_are_known():
    metrics = [{"step": s, "validation_nll": 5.0 - s / 100, "validation_nll_shuffled": 5.5} for s in (10, 20, 30)]
    metrics.append({"step": 40, "validation_nll": 1.0})
    figure = figures.curves_figure(metrics)
    (shade,) = [c for c in figure.axes[0].collections if isinstance(c, FillBetweenPolyCollection)]
    assert shade.get_label().endswith("+0.800")
    vertices = shade.get_paths()[0].vertices
    assert vertices.min(axis=0).tolist() == [10, 4.7]
    assert vertices.max(axis=0).tolist() == [30, 5.5]


# ---- files ----


@pytest.mark.parametrize("title", ["plain", "$x_{$ and 50 % \\frac", "ピアノ", "two\nlines", "not \udcff unicode"])
def test_figures_are_saved_whole_at_1200_pixels_whatever_the_title(tmp_path, title):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_figure(tmp_path / "made" / "clip", figures.roll_figure(made([(0, 1, 60, 64)]), 1.0, title))
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["clip"]
    data = (tmp_path / "made" / "clip").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1200


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "clip.png").write_text("old")
    figure = figures.roll_figure(made(), 1.0)
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        figures.save_figure(tmp_path / "clip.png", figure)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.png"]
    assert (tmp_path / "clip.png").read_text() == "old"


def test_importing_report_stays_light_and_away_from_pyplot():
    heavy = "{'matplotlib.pyplot', 'librosa', 'torch', 'scipy.signal', 'numba'}"
    code = f"import sys, midi2wave.plotting.figures; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---- the listening page ----


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def sources(self, tag: str) -> list[str]:
        return [attributes["src"] for name, attributes in self.tags if name == tag]


NASTY = [
    "plain",
    "a b",
    "50%",
    "x#1?q=2",
    'say "so" & <b>',
    "it's",
    "javascript:alert(1)",
    "ピアノ",
    "{title}",
    "bytes\udcff",
]


def test_links_lead_to_the_files_whatever_their_names(tmp_path):
    entries = [figures.Entry(n, f"{n}.png", [("recording", f"{n}.wav"), ("model <1>", f"sub/{n}.wav")]) for n in NASTY]
    figures.listening_page(tmp_path / "index.html", "Clips & <more>", entries, {"model <x>": "a & b", "steps": "{}"})
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))

    def paths(links):
        return [urllib.parse.unquote(link, errors="surrogateescape") for link in links]

    links = page.sources("img") + page.sources("audio")
    assert all(not urllib.parse.urlsplit(link).scheme and not urllib.parse.urlsplit(link).query for link in links)
    assert paths(page.sources("img")) == [f"{n}.png" for n in NASTY]
    assert paths(page.sources("audio")) == [name for n in NASTY for name in (f"{n}.wav", f"sub/{n}.wav")]
    assert all("controls" in attributes for tag, attributes in page.tags if tag == "audio")
    for text in ("Clips & <more>", "model <x>", "a & b", "{}", "model <1>", *NASTY[:-1], "bytes?"):
        assert text in page.texts
    assert not {"b", "x", "more"} & {tag for tag, _ in page.tags}
    assert not [link for tag, attributes in page.tags for link in [attributes.get("href")] if link]


def test_an_empty_page_is_a_page(tmp_path):
    figures.listening_page(tmp_path / "index.html", "nothing yet", [], {})
    assert "nothing yet" in Page((tmp_path / "index.html").read_text(encoding="utf-8")).texts


# ---- real music ----


def test_a_real_clip_shows_its_notes_as_sound():
    folder = SHARED / "data" / "disklavier-maestro-layout" / "2009"
    if not folder.is_dir():
        pytest.skip("the Disklavier recordings are not at hand")
    from midi2wave.audio import io as audio_io

    performance = clip(midi_reader.read_midi(folder / "grieg_kobold_ENSTDkAm.midi"), 12.0, 16.0)
    samples = audio_io.read_pcm(folder / "grieg_kobold_ENSTDkAm.flac", AUDIO_HZ)[12 * AUDIO_HZ : 16 * AUDIO_HZ]
    figure = figures.clip_figure(performance, 4.0, AUDIO_HZ, samples)
    decibels = image(figure, 2)
    bars = rectangles(figure, "held")
    column = (bars[:, :2].mean(axis=1) / 4 * decibels.shape[1]).astype(int)
    level = {}
    for semitones in range(-4, 5):
        octave = np.log2(440 / figures.LOWEST_HZ) + (bars[:, 2] + semitones - 69) / 12
        band = (octave / np.log2(AUDIO_HZ / 2 / figures.LOWEST_HZ) * figures.N_BANDS).astype(int)
        level[semitones] = decibels[band, column].mean()
    assert max(level, key=level.get) == 0, level
