"""The sampler: onsets to the frame, levels, dampers and release samples, from sines with late attacks."""

import numpy as np
import pytest
import soundfile

from midi2wave.data.sample_analysis import find_attack
from midi2wave.data.sampled_instrument import load_instrument, smooth_levels
from midi2wave.data.sampler import LEAD_SECONDS, RELEASE_DB, play_samples
from midi2wave.utils.errors import InputError
from tests.helpers.fake_piano import performance
from tests.helpers.sfz_instrument import (
    KEYS,
    RELEASE_SECONDS,
    RELEASE_TONE_HZ,
    hertz,
    write_instrument,
    write_tone,
)

HZ = 64000
# A sixteenth of the envelope's window of 1 ms, since the attack is where its power comes within 12 dB of the maximum,
# and a frame.
ONSET_TOLERANCE_SECONDS = 0.0001


@pytest.fixture(scope="module")
def instrument(tmp_path_factory):
    return load_instrument(write_instrument(tmp_path_factory.mktemp("instrument")), gain=0.5)


def play(instrument, notes, seconds, pedal=()):
    return play_samples(performance(notes, pedal), round(seconds * HZ), instrument, HZ)


def level_db(audio):
    return 10 * np.log10(np.square(audio, dtype=np.float64).mean() + 1e-12)


def tone_level_db(audio, frequency):
    """The level of a sine of this frequency in a stretch of audio."""
    time = np.arange(len(audio)) / HZ
    window = np.hanning(len(audio))
    amplitude = abs((audio[:, 0] * window * np.exp(-2j * np.pi * frequency * time)).sum()) * 2 / window.sum()
    return 20 * np.log10(amplitude / np.sqrt(2) + 1e-12)


def onset_seconds(audio):
    """Where the sound jumps: the tones begin at full amplitude."""
    amplitude = np.abs(audio[:, 0])
    return int(np.argmax(amplitude > 0.5 * amplitude.max())) / HZ


@pytest.mark.parametrize("pitch", [59, 60, 61, 63, 64])
@pytest.mark.parametrize("velocity", [10, 60, 100])
def test_attacks_fall_onto_the_labels(instrument, pitch, velocity):
    audio = play(instrument, [(0.25, 0.8, pitch, velocity)], 0.7)
    assert onset_seconds(audio) == pytest.approx(0.25, abs=ONSET_TOLERANCE_SECONDS)
    assert not audio[: round((0.25 - LEAD_SECONDS) * HZ) - 2].any()


def test_onsets_of_all_samples_agree_to_the_frame(instrument):
    """The same layer and pitch at any time is the same sound, and two samples differ by a frame of their files."""
    notes = [(0.1, 0.2, 60, 100), (0.9375, 1.0375, 60, 100)]
    audio = play(instrument, notes, 1.3)
    first, second = (audio[round((t - 0.05) * HZ) :][: round(0.1 * HZ)] for t, *_ in notes)
    np.testing.assert_allclose(first, second, atol=1e-6)
    onsets = [onset_seconds(play(instrument, [(0.1, 0.5, 60, v)], 0.4)) for v in (20, 60, 120)]
    assert max(onsets) - min(onsets) <= 2 / 48000


def test_keys_between_samples_are_transposed(instrument):
    for pitch in (59, 60, 61, 62, 63, 64):
        audio = play(instrument, [(0.0, 1.0, pitch, 100)], 1.0)[round(0.1 * HZ) :, 0]
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 2**18))
        assert np.argmax(spectrum) * HZ / 2**18 == pytest.approx(hertz(pitch), rel=1e-3)


def test_the_level_grows_with_the_velocity(instrument):
    """Strictly, without a step at the borders of the layers, although the second layer is quieter than the first."""
    for pitch in KEYS:
        gains = [instrument.gains_of_note(pitch, v, on_release=False) for v in range(1, 128)]
        levels = [gain + instrument.samples[n].level_db for one in gains for n, gain in one.items()]
        steps = np.diff(levels)
        assert steps.min() > 0 and steps.max() < 0.8
    played = [
        level_db(play(instrument, [(0.0, 0.3, 60, v)], 0.3)[round(0.01 * HZ) :]) for v in (1, 40, 41, 80, 81, 127)
    ]
    assert np.diff(played).min() > 0 and played[2] - played[1] < 1 and played[4] - played[3] < 1


@pytest.mark.parametrize("delay_ms", [3.0, 250.0])
def test_attacks_of_notes_that_become_louder(delay_ms):
    """Beats may make a low note louder much later; a file may begin with a long silence."""
    time = np.arange(24000) / 48000 - delay_ms / 1000
    tone = np.cos(2 * np.pi * 200 * time) * np.where(time < 0, 1e-4, np.where(time < 0.15, 0.12, 0.9))
    attack = find_attack(np.tile(tone[:, None], 2), 48000)
    assert attack / 48000 == pytest.approx(delay_ms / 1000, abs=0.0005)


def test_levels_are_near_those_of_the_layers():
    centres, levels = np.array([10.0, 40, 60, 90, 120]), np.array([-40.0, -31, -27, -20, -12])
    smooth = smooth_levels(centres, levels)
    assert np.interp(centres, np.arange(128), smooth) == pytest.approx(levels, abs=0.6)
    assert (np.diff(smooth) > 0).all() and np.abs(np.diff(smooth, 2)).max() < 0.03
    falling = smooth_levels(centres, np.array([-40.0, -30, -33, -20, -21]))
    assert (np.diff(falling) > 0).all()


def test_a_single_layer_follows_amp_veltrack(tmp_path):
    write_tone(tmp_path / "a.wav", 5, 440, 0.5)
    (tmp_path / "a.sfz").write_text("<region> sample=a.wav key=a4 amp_veltrack=50 volume=-3")
    one = load_instrument(tmp_path / "a.sfz", gain=1.0)
    gains = [one.gains_of_note(69, v, on_release=False)[0] for v in (127, 64)]
    assert gains == pytest.approx([-3, -3 + 20 * np.log10(0.5 + 0.5 * (64 / 127) ** 2)])


def test_a_note_ends_when_its_damper_falls(instrument):
    audio = play(instrument, [(0.1, 0.5, 60, 100)], 1.2)
    tone = hertz(60)
    sustained = tone_level_db(audio[round(0.35 * HZ) : round(0.45 * HZ)], tone)
    middle = tone_level_db(audio[round(0.55 * HZ) : round(0.65 * HZ)], tone)
    assert sustained - middle == pytest.approx(RELEASE_DB * 0.1 / RELEASE_SECONDS, abs=6)
    assert tone_level_db(audio[round(0.75 * HZ) : round(0.85 * HZ)], tone) < sustained - RELEASE_DB + 10


def test_the_pedal_holds_notes_from_64_on(instrument):
    """A half pedal is what the labels make of it: down from 64 on."""
    note, tone = [(0.1, 0.3, 60, 100)], hertz(60)
    later = slice(round(0.55 * HZ), round(0.65 * HZ))
    levels = {
        value: tone_level_db(play(instrument, note, 1.0, [(0.2, value), (0.7, 0)])[later], tone)
        for value in (0, 63, 64, 127)
    }
    assert levels[0] == levels[63] < levels[64] - 60 and levels[64] == levels[127]
    # It ends when the pedal comes up.
    audio = play(instrument, note, 1.0, [(0.2, 127), (0.7, 63)])
    assert tone_level_db(audio[round(0.92 * HZ) :], tone) < levels[127] - 60


def test_release_samples_sound_when_the_damper_falls(instrument):
    def release_levels(notes, pedal=()):
        audio = play(instrument, notes, 1.5, pedal)
        return [
            tone_level_db(audio[round(t * HZ) : round((t + 0.1) * HZ)], RELEASE_TONE_HZ) for t in (0.38, 0.52, 1.02)
        ]

    at_key, before_pedal, _ = release_levels([(0.1, 0.4, 60, 100)])
    assert at_key > -35 and before_pedal > -35
    at_key, before_pedal, at_pedal = release_levels([(0.1, 0.4, 60, 100)], [(0.2, 100), (1.0, 0)])
    assert max(at_key, before_pedal) < -60 < -40 < at_pedal
    # rt_decay: 4 dB less for each second that the note lasted.
    short, long = (release_levels([(0.9 - s, 1.0, 60, 100)])[2] for s in (0.0, 0.5))
    assert short - long == pytest.approx(2.0, abs=0.1)
    # A key that is struck again under the pedal: the damper does not fall.
    assert release_levels([(0.1, 0.3, 60, 100), (0.5, 1.4, 60, 100)], [(0.2, 100)])[1] < -60


def test_a_note_at_the_beginning_is_cut_there(instrument):
    audio = play(instrument, [(0.0, 0.2, 60, 100)], 0.3)
    assert audio.shape == (round(0.3 * HZ), 2) and np.abs(audio[:64]).max() > 0.01


def test_playing_is_deterministic_and_stereo(tmp_path, instrument):
    notes = [(0.1 * i, 0.1 * i + 0.3, 59 + i % 6, 20 + 10 * i) for i in range(9)]
    assert play(instrument, notes, 1.5).tobytes() == play(instrument, notes, 1.5).tobytes()
    left = np.zeros((48000, 2), np.float32)
    left[100:, 0] = 0.5
    soundfile.write(tmp_path / "a.wav", left, 48000, subtype="FLOAT")
    (tmp_path / "a.sfz").write_text("<region> sample=a.wav key=60")
    audio = play(load_instrument(tmp_path / "a.sfz", 1.0), [(0.1, 0.3, 60, 127)], 0.4)
    assert np.abs(audio[:, 0]).max() > 0.05 and not audio[:, 1].any()


def damage(folder, how):
    sample = folder / "samples" / "tone 63 1.wav"
    if how == "missing":
        sample.unlink()
    elif how == "cut":
        sample.write_bytes(sample.read_bytes()[:5000])
    elif how == "text":
        sample.write_text("not a sound")
    else:
        soundfile.write(sample, np.zeros(9000), 48000)


@pytest.mark.parametrize("how", ["missing", "cut", "text", "silent"])
def test_a_bad_sample_is_named_in_one_line(tmp_path, how):
    path = write_instrument(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(InputError, match=r"tone 63 1\.wav") as error:
        load_instrument(path, 0.5)
    assert "\n" not in str(error.value)
