"""The demo data set: layout, determinism, and the behaviour of its piano, by spectra and levels."""

import csv
import hashlib
import json
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from midi2wave.demo_dataset import generate
from midi2wave.demo_dataset.composer import MAX_PITCH, MIN_PITCH, compose
from midi2wave.demo_dataset.piano_synth import NOISE_FLOOR, RELEASE_TAIL_SECONDS, render
from midi2wave.midi.reader import read_midi
from midi2wave.utils import cli
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import LOCK_NAME

HZ = 44100
TINY = {"train_minutes": 0.1, "validation_minutes": 0.05, "test_minutes": 0.05, "audio_hz": 16000}


def one_note(
    path: Path, pitch: int, *, velocity: int = 80, held_seconds: float = 1.0, pedal_until: float = 0.0
) -> np.ndarray:
    """The rendered sound, float32 [T], of one note at 0 s."""
    ticks_per_second = 960
    events = [
        (0.0, mido.Message("note_on", note=pitch, velocity=velocity)),
        (held_seconds, mido.Message("note_off", note=pitch)),
    ]
    if pedal_until:
        events += [(t, mido.Message("control_change", control=64, value=v)) for t, v in ((0, 127), (pedal_until, 0))]
    track, now = mido.MidiTrack(), 0
    for seconds, message in sorted(events, key=lambda event: event[0]):
        tick = round(seconds * ticks_per_second)
        track.append(message.copy(time=tick - now))
        now = tick
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(path)
    return render(path, HZ).mean(axis=1)


def level_db(sound: np.ndarray, start: float, end: float) -> float:
    """RMS in dB relative to full scale between two times in seconds."""
    return float(20 * np.log10(np.sqrt(np.mean(sound[round(start * HZ) : round(end * HZ)] ** 2))))


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK_NAME)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.make_data_set(tmp_path_factory.mktemp("demo") / "set", **TINY).parent


@pytest.mark.parametrize("pitch", [33, 40, 52, 60, 69, 81, 90, 96])
def test_a_note_sounds_at_its_pitch(tmp_path: Path, pitch: int) -> None:
    sound = one_note(tmp_path / "note.mid", pitch)[: HZ // 2]
    n_bins = 2**19
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), n_bins))
    hz = np.arange(len(spectrum)) * HZ / n_bins
    expected_hz = 440 * 2 ** ((pitch - 69) / 12)
    near = (hz > expected_hz * 0.75) & (hz < expected_hz * 1.33)  # a fourth down to a fourth up
    peak_hz = hz[near][np.argmax(spectrum[near])]
    assert abs(1200 * np.log2(peak_hz / expected_hz)) < 20
    assert spectrum[near].max() > 100 * np.median(spectrum[near])


def test_partials_are_stretched(tmp_path: Path) -> None:
    sound = one_note(tmp_path / "note.mid", 60, velocity=110)[:HZ]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**19))
    hz = np.arange(len(spectrum)) * HZ / 2**19
    peaks = []
    for n in (1, 10):
        near = abs(hz - 261.63 * n) < 100
        peaks.append(hz[near][np.argmax(spectrum[near])])
    assert 5 < 1200 * np.log2(peaks[1] / (10 * peaks[0])) < 100  # the tenth partial is sharp, as on a stiff string


def test_onsets_carry_the_energy_of_the_composed_pitches(tmp_path: Path) -> None:
    """At each onset the level rises at the note's pitch, and stands out from the semitones beside it."""
    path = tmp_path / "piece.mid"
    compose(2, 30.0).write(path)
    notes, sound = read_midi(path), render(path, HZ).mean(axis=1)
    n_samples, rises, contrasts = HZ // 8, [], []

    def level(first: int, pitch: int) -> float:
        omega = 2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) / HZ
        probe = np.hanning(n_samples) * np.exp(-1j * omega * np.arange(n_samples))
        return float(20 * np.log10(abs(sound[first : first + n_samples] @ probe)))

    for onset, pitch in zip(notes.onset.tolist(), notes.pitch.tolist(), strict=True):
        recent = notes.pitch[(notes.onset > onset - 1) & (notes.onset < onset + 0.12)]
        near_or_overtone = np.isin(pitch - recent, [-1, 0, 1, 11, 12, 13, 18, 19, 20, 24]).sum() > 1
        if pitch < 67 or onset < 0.125 or near_or_overtone:  # an eighth of a second does not resolve lower semitones
            continue
        first = round(onset * HZ)
        rises.append(level(first, pitch) - level(first - n_samples, pitch))
        contrasts.append(level(first, pitch) - max(level(first, pitch - 1), level(first, pitch + 1)))
    assert len(rises) >= 10
    assert min(rises) > 12
    assert np.median(contrasts) > 15


def test_velocity_raises_level_and_brightness(tmp_path: Path) -> None:
    sounds = [one_note(tmp_path / "note.mid", 60, velocity=v)[: HZ // 2] for v in (30, 60, 90, 120)]
    levels = [level_db(sound, 0, 0.5) for sound in sounds]
    assert np.all(np.diff(levels) > 3)
    power = [np.abs(np.fft.rfft(sound)) ** 2 for sound in sounds]
    above_1khz = [p[500:].sum() / p.sum() for p in power]
    assert np.all(np.diff(above_1khz) > 0)


def test_dampers_and_pedal(tmp_path: Path) -> None:
    damped = one_note(tmp_path / "a.mid", 60, held_seconds=0.5)
    pedalled = one_note(tmp_path / "b.mid", 60, held_seconds=0.5, pedal_until=2.0)
    assert len(pedalled) - len(damped) == pytest.approx(1.5 * HZ, abs=2)
    assert level_db(damped, 0.8, 1.4) < level_db(pedalled, 0.8, 1.4) - 25
    np.testing.assert_allclose(damped[: HZ // 2], pedalled[: HZ // 2], atol=10 * NOISE_FLOOR)
    assert level_db(pedalled, 2.3, 2.9) < level_db(pedalled, 1.4, 1.9) - 20  # the lifted pedal damps


def test_the_highest_keys_have_no_dampers(tmp_path: Path) -> None:
    short, long = (one_note(tmp_path / "note.mid", 92, held_seconds=seconds) for seconds in (0.1, 1.0))
    assert level_db(short, 0.3, 0.9) == pytest.approx(level_db(long, 0.3, 0.9), abs=0.2)


def test_silence_is_the_noise_floor(tmp_path: Path) -> None:
    end = one_note(tmp_path / "note.mid", 60, held_seconds=0.2)[-HZ // 4 :]
    assert level_db(end, 0, 0.25) == pytest.approx(-75 - 3, abs=1)  # the mean of two independent channels: 3 dB less


@pytest.mark.parametrize("seed", range(6))
def test_a_piece_is_playable_piano_music(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "piece.mid"
    piece = compose(seed, 40.0)
    piece.write(path)
    notes = read_midi(path)
    assert len(piece.instruments) == 2 and mido.MidiFile(path).type == 1
    assert notes.dropped == ()
    assert len(notes.onset) == sum(len(hand.notes) for hand in piece.instruments)
    assert notes.pitch.min() >= MIN_PITCH and notes.pitch.max() <= MAX_PITCH
    assert np.ptp(notes.pitch) > 36
    assert np.ptp(notes.velocity) > 15
    assert notes.offset.max() == pytest.approx(40 - RELEASE_TAIL_SECONDS, abs=0.05)
    assert len(notes.pedals[64]) >= 6
    simultaneous = [np.sum(abs(notes.onset - onset) < 0.02) for onset in notes.onset]
    assert max(simultaneous) <= 10


def test_other_seeds_are_other_pieces() -> None:
    pieces = [[str(note) for note in compose(seed, 10.0).instruments[0].notes] for seed in range(4)]
    assert all(pieces[a] != pieces[b] for a in range(4) for b in range(a))


def test_layout_and_metadata(tiny: Path) -> None:
    with open(tiny / "maestro-v2.0.0.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    official = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"
    assert ",".join(rows[0]) == official
    assert [row["split"] for row in rows] == ["train", "validation", "test"]
    assert [row["year"] for row in rows] == ["2008", "2009", "2008"]
    for row, seconds in zip(rows, (6, 3, 3), strict=True):
        assert row["midi_filename"].startswith(row["year"] + "/") and row["midi_filename"].endswith(".midi")
        info = soundfile.info(tiny / row["audio_filename"])
        assert (info.channels, info.samplerate, info.subtype, info.format) == (2, 16000, "PCM_16", "WAV")
        assert float(row["duration"]) == pytest.approx(info.duration, abs=1e-6)
        assert info.duration == pytest.approx(seconds, abs=0.05)
        audio, _ = soundfile.read(tiny / row["audio_filename"])
        assert np.isfinite(audio).all() and 0.05 < abs(audio).max() < 0.99


def test_the_demo_has_four_test_pieces() -> None:
    """Short ones stand behind all others, which stay as they were; the clips of the demo are then of four pieces."""
    minutes = {"train": 6.0, "validation": 0.75, "test": 0.75}
    pieces = generate._plan_pieces(0, minutes)
    test = [piece.seconds for piece in pieces if piece.split == "test"]
    assert test == [45.0, 11.25, 11.25, 11.25] and [piece.split for piece in pieces[-4:]] == ["test"] * 4
    assert len({piece.seed for piece in pieces}) == len({piece.stem for piece in pieces}) == len(pieces)
    assert [len(generate._plan_pieces(0, minutes | {"test": test})) for test in (0.1, 30.0)] == [
        len(pieces) - 3,
        len(pieces) - 4 + 36,
    ]


def test_same_seed_same_bytes(tiny: Path, tmp_path: Path) -> None:
    generate.make_data_set(tmp_path / "again", **TINY)
    assert digest(tmp_path / "again") == digest(tiny)
    generate.make_data_set(tmp_path / "other", seed=1, **TINY)
    assert not set(digest(tmp_path / "other").values()) & set(digest(tiny).values())


def test_a_rerun_completes_what_is_missing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, untouched = digest(tiny), sorted(tiny.rglob("*.wav"))[0]
    written = untouched.stat().st_mtime_ns
    generate.make_data_set(tiny, **TINY)
    assert "already complete" in capsys.readouterr().err
    sorted(tiny.rglob("*.wav"))[-1].unlink()
    (tiny / "maestro-v2.0.0.csv").unlink()
    generate.make_data_set(tiny, **TINY)
    assert digest(tiny) == before
    assert untouched.stat().st_mtime_ns == written


def test_a_folder_of_other_files_is_always_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for force in (False, True):
        with pytest.raises(InputError, match="choose another folder"):
            generate.make_data_set(tmp_path, force=force, **TINY)
    assert list(digest(tmp_path)) == ["thesis.txt"]


def test_force_replaces_a_data_set_of_other_arguments(tmp_path: Path) -> None:
    generate.make_data_set(tmp_path, seed=1, **TINY)
    (tmp_path / "2008/thesis.wav").write_text("precious")
    before, other = digest(tmp_path), {**TINY, "train_minutes": 0.06}
    with pytest.raises(InputError, match=r"another config .*--force"):
        generate.make_data_set(tmp_path, **other)
    assert digest(tmp_path) == before
    generate.make_data_set(tmp_path, force=True, **other)
    assert soundfile.info(tmp_path / "2008/demo_seed0_001.wav").duration == pytest.approx(3.6, abs=0.05)
    assert (tmp_path / "2008/thesis.wav").read_text() == "precious"
    assert not list(tmp_path.rglob("demo_seed1_*"))


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--minutes", "nan"], ["--seed", "-1"]])
def test_impossible_arguments_are_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: generate.main(["-o", str(tmp_path / "set"), *arguments]))
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["-o", str(tmp_path / "set"), "--minutes", "0.05", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pieces"] == 3 and Path(result["metadata"]).is_file() and result["failures"] == []
