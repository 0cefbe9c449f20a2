"""Which recordings of a user can be trained on: right pairs pass, every kind of mistake is named with its remedy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from midi2wave.demo_dataset import composer, piano_synth
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi, read_parts
from midi2wave.recordings.check import CheckedPair, CheckedRecordings, check_recordings
from midi2wave.recordings.report_page import PAGE_NAME, write_report
from midi2wave.utils.errors import InputError
from tests.helpers import midi_bytes
from tests.helpers.paths import DISKLAVIER

HZ = 16000
SECONDS = 40.0


def shift(performance: Performance, seconds: float, ratio: float = 1.0) -> Performance:
    """All events later, and at another tempo."""
    pedals = {pedal: events * [ratio, 1] + [seconds, 0] for pedal, events in performance.pedals.items()}
    onset, offset = performance.onset * ratio + seconds, performance.offset * ratio + seconds
    return replace(performance, onset=onset, offset=offset, pedals=pedals)


class Folder:
    """A folder with two pieces, and files made from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sounds, self.performances = [], []
        for seed in (1, 2):
            midi = path.parent / f"{seed}.mid"
            composer.compose(seed, SECONDS).write(str(midi))
            self.sounds.append(piano_synth.render(midi, HZ))
            self.performances.append(read_midi(midi))

    def add(self, name: str, sound: np.ndarray, performance: Performance, audio_hz: int = HZ) -> None:
        soundfile.write(self.path / f"{name}.wav", sound, audio_hz)
        performance.to_pretty_midi().write(str(self.path / f"{name}.mid"))


def fill(folder: Folder) -> None:
    sound, performance = folder.sounds[0], folder.performances[0]
    other_sound, other = folder.sounds[1], folder.performances[1]
    late = np.concatenate([np.zeros((3 * HZ, 2), np.float32), sound])
    n = min(len(sound), len(other_sound))
    folder.add("right", sound, performance)
    folder.add("other", other_sound, other)
    folder.add("swapped", sound, other)
    folder.add("octave", sound, replace(performance, pitch=performance.pitch + 12))
    folder.add("third", sound, replace(performance, pitch=performance.pitch - 3))
    folder.add("late", late, performance)
    folder.add("early", sound, shift(performance, 1.5))
    folder.add("slower", sound, shift(performance, 0.0, 1.1))
    folder.add("drifting", sound, shift(performance, 0.0, 1.012))
    folder.add("rate", sound, performance, 17415)
    high_rate = scipy.signal.resample_poly(sound, 6, 1)
    folder.add("six_channels", np.tile(high_rate, 3) * [1, 1, 0.5, 0.1, 0.3, 0.3], performance, 6 * HZ)
    folder.add("silent", 0 * sound, performance)
    folder.add("quiet", 0.01 * sound, performance)
    folder.add("clipped", (8 * sound).clip(-1, 1), performance)
    folder.add("slow_clock", sound, shift(performance, 0.0, 1.002))
    soundfile.write(folder.path / "above.wav", 8 * sound, HZ, subtype="FLOAT")
    performance.to_pretty_midi().write(str(folder.path / "above.mid"))
    folder.add("inverted", sound[:, :1] * [1, -1], performance)
    folder.add("short", sound[: 12 * HZ], performance)
    folder.add("broken_off", sound[: 24 * HZ], performance)
    folder.add("two_sounds", 0.3 * sound[:n] + 0.7 * other_sound[:n], performance)
    first = performance.onset < 15
    folder.add("half", sound, replace(performance, **{f: getattr(performance, f)[first] for f in ARRAYS}))
    soundfile.write(folder.path / "drums.wav", sound, HZ)
    beats = [(480 * i, midi_bytes.on(38, channel=9)) for i in range(40)]
    (folder.path / "drums.mid").write_bytes(midi_bytes.smf(midi_bytes.track(*beats)))
    for name in ("pianos", "violin"):
        soundfile.write(folder.path / f"{name}.wav", sound, HZ)
        midi = performance.to_pretty_midi()
        midi.instruments += other.to_pretty_midi(program=0 if name == "pianos" else 40).instruments
        midi.write(str(folder.path / f"{name}.mid"))
    folder.add("no_midi", sound, performance)
    (folder.path / "no_midi.mid").write_bytes(b"RIFFnothing")
    folder.add("no_audio", sound, performance)
    (folder.path / "no_audio.wav").write_bytes((folder.path / "right.wav").read_bytes()[:5000])


ARRAYS = ("onset", "offset", "pitch", "velocity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    path = tmp_path_factory.mktemp("user") / "recordings"
    path.mkdir()
    return Folder(path)


@pytest.fixture(scope="module")
def checked(folder) -> CheckedRecordings:
    fill(folder)
    return check_recordings(folder.path)


@pytest.fixture(scope="module")
def by_name(checked) -> Callable[[str], CheckedPair]:
    return {pair.name: pair for pair in checked.pairs}.__getitem__


def test_right_pairs_have_no_problems(by_name, folder):
    for name, performance in zip(("right", "other"), folder.performances, strict=True):
        pair = by_name(name)
        assert pair.usable and pair.problems == []
        assert abs(pair.offset_seconds) < 0.02 and pair.n_notes == len(performance.onset)
        assert pair.pitch_range == (performance.pitch.min(), performance.pitch.max())
    assert (by_name("right").audio_hz, by_name("right").n_channels) == (HZ, 2)
    assert by_name("right").seconds == len(folder.sounds[0]) / HZ
    assert 0 < by_name("right").pedal_share < 1


def test_six_channels_at_96_khz_are_right(by_name):
    pair = by_name("six_channels")
    assert pair.usable and pair.problems == []
    assert (pair.audio_hz, pair.n_channels) == (96000, 6) and abs(pair.offset_seconds) < 0.02


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swapped", "its notes are not those of the sound"),
        ("octave", "an octave higher than the sound; transpose the MIDI file by -12 semitones"),
        ("third", "3 semitones lower than the sound; transpose the MIDI file by +3 semitones"),
        ("slower", "% faster than the notes; give the MIDI file that was recorded with this sound"),
        ("drifting", "the lag of the sound changes by -"),
        ("slow_clock", "the lag of the sound changes by -"),
        ("above", "samples are above full scale, at most by "),
        ("rate", "its sample rate is stated wrongly"),
        ("silent", "it is silent"),
        ("clipped", "it is clipped"),
        ("inverted", "its channels cancel each other out"),
        ("short", "it has 12.0 s, too short"),
        ("half", "note of the MIDI file; cut it off"),
        ("drums", "no piano notes (left out: drum notes (channel 10): 40)"),
        ("pianos", "notes that are not in the sound: track "),
        ("violin", "are of other instruments (Violin); give a recording of the piano alone"),
        ("no_midi", "not a MIDI file"),
        ("no_audio", "is truncated"),
    ],
)
def test_what_cannot_be_trained_on_is_named(by_name, name, words):
    pair = by_name(name)
    assert not pair.usable
    assert [text for text in pair.problems if words in text], pair.problems
    assert all("\n" not in text for text in pair.problems)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("late", "ms after the notes; this is corrected"),
        ("early", "ms before the notes; this is corrected"),
        ("quiet", "very low"),
        ("broken_off", "s longer than the sound"),
        ("two_sounds", "notes and sound agree only in part"),
    ],
)
def test_what_can_be_trained_on_all_the_same_is_said(by_name, name, words):
    pair = by_name(name)
    assert pair.usable and len(pair.problems) == 1 and words in pair.problems[0]


def test_offsets_are_measured(by_name):
    assert by_name("late").offset_seconds == pytest.approx(3, abs=0.02)
    assert by_name("early").offset_seconds == pytest.approx(-1.5, abs=0.02)


def test_parts_are_read_by_themselves(folder, checked):
    parts = read_parts(folder.path / "violin.mid")
    assert [(part.program, len(part.performance.onset)) for part in parts] == [
        (0, len(folder.performances[0].onset)),
        (40, len(folder.performances[1].onset)),
    ]
    assert [part.track for part in parts] == [1, 2]


def test_the_report_shows_every_pair(checked, tmp_path):
    few = CheckedRecordings([pair for pair in checked.pairs if pair.name in ("right", "drums")], [tmp_path / "a<b.wav"])
    page = write_report(few, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert page.name == PAGE_NAME and "1 of 2 usable" in text and "a&lt;b.wav" in text
    assert all(f"<h2>{pair.name}</h2>" in text for pair in few.pairs)
    assert "no piano notes" in text
    pictures = sorted(path.name for path in (tmp_path / "report" / "pictures").iterdir())
    assert pictures == ["0002_right.png"] and "pictures/0002_right.png" in text
    assert write_report(few, tmp_path / "report") == page


def test_originals_are_checked_and_lonely_files_named(folder, tmp_path, capsys):
    sound, performance = folder.sounds[0][: HZ * 2], folder.performances[0]
    for name in ("b.wav", "b_16000.wav", "alone.wav", "audio/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, sound, HZ)
    (tmp_path / "midi").mkdir()
    for name in ("b.mid", "midi/a.mid", "lost.mid"):
        performance.to_pretty_midi().write(str(tmp_path / name))
    checked = check_recordings(tmp_path)
    pairs = [(pair.audio.relative_to(tmp_path).as_posix(), pair.midi.name) for pair in checked.pairs]
    assert pairs == [("audio/a.wav", "a.mid"), ("b.wav", "b.mid")]
    assert checked.unmatched == [tmp_path / "alone.wav", tmp_path / "lost.mid"]
    assert "without a partner of equal name: alone.wav, lost.mid" in capsys.readouterr().err


def test_a_folder_without_pairs_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"holds no audio and no MIDI files; put pairs"):
        check_recordings(tmp_path)
    soundfile.write(tmp_path / "a.wav", folder.sounds[0][:HZ], HZ)
    with pytest.raises(InputError, match=r"\(a.wav\), but no pair of audio and MIDI with equal names; rename"):
        check_recordings(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        check_recordings(tmp_path / "none")


@pytest.mark.real_data
@pytest.mark.skipif(not DISKLAVIER.is_dir(), reason=f"no recordings at {DISKLAVIER}")
def test_real_recordings_pass(tmp_path):
    names = ("scn15_9_ENSTDkAm", "scn15_6_ENSTDkAm", "chpn-p14_ENSTDkAm")
    for name in names:
        for path in (DISKLAVIER / "2009").glob(f"{name}.*"):
            (tmp_path / path.name).symlink_to(path.resolve())
    pairs = check_recordings(tmp_path).pairs
    assert [(pair.name, pair.problems) for pair in pairs] == [(name, []) for name in sorted(names)]
    assert all(0.01 < pair.offset_seconds < 0.03 for pair in pairs)  # The labels of 2009 are some 15 ms early.
