"""Figures of clips: what is drawn where, and that unusual input is drawn at all."""

import subprocess
import sys
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import clip
from midi2wave.plotting import figures
from midi2wave.plotting.figures import pixels
from tests.helpers.fake_piano import performance as make_performance
from tests.helpers.paths import ROOT, SHARED

AUDIO_HZ = 16000


def sine(hz: float, seconds: float, amplitude: float = 10000.0) -> np.ndarray:
    return np.rint(amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * AUDIO_HZ)) / AUDIO_HZ)).astype(np.int16)


def image(figure, row: int) -> np.ndarray:
    """The decibels shown in one spectrogram row, [bands, columns]."""
    return np.asarray(figure.axes[row].images[0].get_array())


def rectangles(figure, label: str) -> np.ndarray:
    """(start, stop, pitch) of the bars in the roll, [N, 3]."""
    matching = [c for c in figure.axes[0].collections if c.get_label() == label]
    assert len(matching) == 1
    corners = np.array([path.vertices[:4] for path in matching[0].get_paths()]).reshape(-1, 4, 2)
    return np.stack([corners[..., 0].min(1), corners[..., 0].max(1), corners[..., 1].mean(1)], axis=1)


# ---- the piano roll ----


def test_bars_end_with_key_and_damper():
    """The solid bar of a note ends when its key is released, the pale bar when its damper falls."""
    performance = make_performance([(0.5, 1.0, 60, 40), (2.5, 2.75, 64, 90)], pedal=[(0.75, 127), (2.0, 0)])
    figure = figures.piano_roll_figure(performance, 4.0)
    np.testing.assert_allclose(rectangles(figure, "held"), [[0.5, 1.0, 60], [2.5, 2.75, 64]])
    np.testing.assert_allclose(rectangles(figure, "sounding"), [[0.5, 2.0, 60], [2.5, 2.75, 64]])


def test_piano_roll_is_cropped_to_its_time():
    """Bars are cut at the ends of the axis, and notes that do not sound in its range are left out."""
    notes = [(-2, -1, 50, 64), (-1, 0, 52, 64), (-1, -0.5, 60, 64), (-0.5, 0.5, 62, 64), (3, 9, 64, 64), (4, 5, 70, 64)]
    performance = make_performance(notes, pedal=[(-0.7, 127), (-0.6, 0), (-0.55, 127)])
    figure = figures.piano_roll_figure(performance, 4.0)
    np.testing.assert_allclose(rectangles(figure, "sounding"), [[0, 4, 52], [0, 4, 60], [0, 4, 62], [3, 4, 64]])
    np.testing.assert_allclose(rectangles(figure, "held"), [[0, 0, 52], [0, 0, 60], [0, 0.5, 62], [3, 4, 64]])


def test_velocity_is_the_colour():
    figure = figures.piano_roll_figure(make_performance([(0, 1, 60, 20), (1, 2, 62, 64), (2, 3, 64, 110)]), 3.0)
    picture, ax = pixels(figure), figure.axes[0]
    for middle, pitch, velocity in ((0.5, 60, 20), (1.5, 62, 64), (2.5, 64, 110)):
        x, y = ax.transData.transform((middle, pitch)).round().astype(int)
        low, high = figures.VELOCITY_RANGE
        expected = figures.VELOCITY_COLOURS((velocity - low) / (high - low))[:3]
        np.testing.assert_allclose(picture[-y, x, :3] / 255, expected, atol=0.01)


def test_a_short_note_in_a_long_piece_is_still_seen():
    figure = figures.piano_roll_figure(make_performance([(1800, 1800.05, 60, 64)]), 3600.0)
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
    figure = figures.piano_roll_figure(make_performance(pedal=events), 4.0)
    path = figure.axes[1].collections[0].get_paths()[0]
    for seconds, depth in depth_at.items():
        assert path.contains_point((seconds, depth - 1)) == (depth > 0)
        assert not path.contains_point((seconds, depth + 1))


# ---- spectrograms ----


@pytest.mark.parametrize("hz", [110.0, 440.0, 3000.0])
def test_a_tone_is_drawn_at_its_frequency_on_the_axis(hz):
    figure = figures.clip_figure(make_performance(), 1.0, AUDIO_HZ, truth=sine(hz, 1.0))
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
    decibels = image(figures.clip_figure(make_performance(), 4.0, AUDIO_HZ, truth=samples), 2)
    loudest = np.flatnonzero(decibels.max(0) == decibels.max()).mean()
    assert (loudest + 0.5) / decibels.shape[1] * 4 == pytest.approx(3.0, abs=figures.COLUMN_SECONDS)


def test_one_scale_relative_to_the_recording():
    truth = sine(440, 2.0, amplitude=20000)
    figure = figures.clip_figure(make_performance(), 2.0, AUDIO_HZ, truth, (truth / 10).astype(np.int16))
    assert image(figure, 2).max() == pytest.approx(0, abs=1e-9)
    assert image(figure, 3).max() == pytest.approx(-20, abs=0.01)
    assert {figure.axes[row].images[0].get_clim() for row in (2, 3)} == {(-80, 0)}
    assert image(figure, 2).min() == -80


def test_noise_60_db_down_is_visible():
    rng = np.random.default_rng(0)
    tone = sine(440, 2.0, amplitude=20000)
    figure = figures.clip_figure(
        make_performance(), 2.0, AUDIO_HZ, tone, tone + rng.normal(0, 20, len(tone)).astype(np.int16)
    )
    quiet, noisy = (np.median(image(figure, row)[-60:]) for row in (2, 3))
    assert quiet == -80
    # By the Hann window's coherent and noise gains -83 dB in a band as wide as its main lobe; these are 6 dB wider.
    assert noisy == pytest.approx(-77, abs=0.5)


@pytest.mark.parametrize("hz", [100, 1000, 4000])
def test_a_tone_has_the_same_level_wherever_it_is(hz):
    decibels = image(figures.clip_figure(make_performance(), 1.0, AUDIO_HZ, sine(500, 1.0), sine(hz, 1.0)), 3)
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
        figure = figures.clip_figure(make_performance(), 1.0, AUDIO_HZ, truth, output)
        assert [t.get_text() for ax in figure.axes for t in ax.texts] == names
        sizes.append(figure.get_size_inches()[1])
    assert sizes[0] < sizes[1] == sizes[2] < sizes[3]


def test_rows_share_the_time_axis():
    """All rows have one time axis; the spectrogram of shorter audio ends earlier on it."""
    figure = figures.clip_figure(make_performance([(0, 1, 60, 64)]), 4.0, AUDIO_HZ, sine(440, 9.0), sine(440, 1.0))
    pixels(figure)
    assert all(ax.get_xlim() == (0, 4) for ax in figure.axes[:4])
    assert len({(ax.get_position().x0, ax.get_position().x1) for ax in figure.axes[:4]}) == 1
    assert [figure.axes[row].images[0].get_extent()[1] for row in (2, 3)] == [4.0, 1.0]


# ---- unusual and long input ----


@pytest.mark.parametrize(
    ("truth", "output"),
    [
        (np.zeros(64000, np.int16), np.full(1, -32768, np.int16)),
        (np.ones(1, np.int16), np.zeros(64000, np.int16)),
        (np.zeros(64000, np.int16), np.zeros(64000, np.int16)),
        (np.zeros(0, np.int16), None),
    ],
)
def test_silence_and_very_short_audio_are_drawn(truth, output):
    """Each sound has its row, as long as the sound; silence is as dark as the scale goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.clip_figure(make_performance(), 4.0, AUDIO_HZ, truth, output, prompt_end_seconds=1.0)
        assert pixels(figure).std() > 0
    sounds = [sound for sound in (truth, output) if sound is not None]
    assert sum(bool(ax.images) for ax in figure.axes[2 : 2 + len(sounds)]) == len(sounds)
    for row, sound in enumerate(sounds, start=2):
        assert figure.axes[row].images[0].get_extent()[1] == max(1, len(sound)) / AUDIO_HZ
        levels = image(figure, row)
        assert np.isfinite(levels).all()
        assert np.all(levels == figures.MIN_DB) == (not sound.any())


def test_an_hour_costs_little_more_than_a_clip():
    rng = np.random.default_rng(1)
    onset = np.sort(rng.uniform(0, 3600, 40000))
    notes = np.stack([onset, onset + 0.3, rng.integers(21, 109, 40000), rng.integers(1, 128, 40000)], axis=1)
    pedal = [(s, 127 * (i % 2)) for i, s in enumerate(np.arange(0, 3600, 0.5))]
    performance = make_performance(notes.tolist(), pedal)
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


@pytest.mark.parametrize("n_samples", [1, 63, 64 * 257 - 40, 64 * figures.MAX_COLUMNS + 1, 12000 * 1025 + 100])
def test_columns_cover_audio_of_any_length(n_samples):
    """The last column may begin with the last sample; silence follows it."""
    power = figures.spectrogram(np.full(n_samples, 1000, np.int16), AUDIO_HZ)
    hop = max(64, -(-n_samples // figures.MAX_COLUMNS))
    assert power.shape == (figures.N_BANDS, -(-n_samples // hop))
    assert np.isfinite(power).all()


@pytest.mark.parametrize(
    ("prompt_end", "labels"),
    [
        (0.0, ["generated"]),
        (0.05, ["prompt", "generated"]),
        (3.9, ["prompt", "generated"]),
        (99.0, ["prompt"]),
        (None, []),
    ],
)
def test_prompt_end_is_marked_in_every_row(prompt_end, labels):
    figure = figures.clip_figure(
        make_performance(), 4.0, AUDIO_HZ, sine(440, 4.0), sine(440, 4.0), prompt_end_seconds=prompt_end
    )
    pixels(figure)
    assert [t.get_text() for t in figure.axes[0].texts] == labels
    lines = [ax.lines[0].get_xdata()[0] for ax in figure.axes[:4] if ax.lines]
    assert lines == ([] if prompt_end is None else [min(prompt_end, 4.0)] * 4)
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= 1200


# ---- files ----


@pytest.mark.parametrize("title", ["plain", "$x_{$ and 50 % \\frac", "ピアノ", "two\nlines", "not \udcff unicode"])
def test_figures_are_1200_pixels_wide_whatever_the_title(tmp_path, title):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_figure(
            tmp_path / "made" / "clip", figures.piano_roll_figure(make_performance([(0, 1, 60, 64)]), 1.0, title)
        )
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["clip"]
    data = (tmp_path / "made" / "clip").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1200


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "clip.png").write_text("old")
    figure = figures.piano_roll_figure(make_performance(), 1.0)
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        figures.save_figure(tmp_path / "clip.png", figure)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.png"]
    assert (tmp_path / "clip.png").read_text() == "old"


def test_importing_plotting_stays_light():
    """Importing any plotting module loads neither PyTorch nor pyplot nor librosa."""
    modules = "figures, training_curves, dataset_card, listening_page"
    heavy = "{'matplotlib.pyplot', 'librosa', 'torch', 'scipy.signal', 'numba'}"
    code = f"import sys; from midi2wave.plotting import {modules}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---- real music ----


@pytest.mark.real_data
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
        octave = np.log2(440 / figures.MIN_HZ) + (bars[:, 2] + semitones - 69) / 12
        band = (octave / np.log2(AUDIO_HZ / 2 / figures.MIN_HZ) * figures.N_BANDS).astype(int)
        level[semitones] = decibels[band, column].mean()
    assert max(level, key=level.get) == 0, level
