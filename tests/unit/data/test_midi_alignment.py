"""Whether a MIDI belongs to its recording, and by how much it is late; and what the dataset card says of them."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import soundfile

import preprocess_maestro
from midi2wave.audio import io as audio_io
from midi2wave.audio.pcm import silent_blocks, to_pcm
from midi2wave.data import dataset_card, midi_alignment
from midi2wave.data.maestro import COLUMNS, Recording, read_metadata, select_split
from midi2wave.data.midi_alignment import Alignment, alignment_warning, unchecked_warning
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi, read_performance
from tests.helpers.paths import DATA, DISKLAVIER, MAESTRO_CLIP
from tests.helpers.pipeline import call, settings, write_midi

HZ = 16000


def piece(seed: int, seconds: float = 90.0, gap: float = 0.3) -> list[tuple[float, float, int, int]]:
    rng = np.random.default_rng(seed)
    onsets = np.cumsum(rng.exponential(gap, int(seconds / gap)) + 0.05)
    onsets = onsets[onsets < seconds - 1]
    return [(t, t + 0.25, int(rng.integers(40, 90)), int(rng.integers(40, 110))) for t in onsets]


def struck(path, notes, seconds: float) -> np.ndarray:
    """Decaying sines, whose ends are no onsets as those of bursts would be; int16, also as a wav."""
    sound, age = np.zeros(round(seconds * HZ)), np.arange(round(0.6 * HZ)) / HZ
    for onset, _, pitch, velocity in notes:
        first = round(onset * HZ)
        tone = velocity / 512 * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * age) * np.exp(-12 * age)
        sound[first : first + len(tone)] += tone[: max(0, len(sound) - first)]
    pcm = to_pcm(sound)[0]
    audio_io.write_wav(path, pcm, HZ)
    return pcm


def both(tmp_path, notes, shift=0.0, seconds=90.0, drift=1.0) -> tuple[np.ndarray, Performance]:
    """The sound of some notes, later than they are by `shift` seconds, and slower."""
    sounding = [(on * drift + shift, off * drift + shift, pitch, velocity) for on, off, pitch, velocity in notes]
    pcm = struck(tmp_path / "a.wav", sounding, seconds)
    return pcm, read_midi(write_midi(tmp_path / "a.mid", notes))


@pytest.mark.parametrize("shift", [0.0, 0.13, -0.09, 0.6])
def test_lag_is_measured_at_start_and_end(tmp_path, shift):
    notes = [note for note in piece(0) if note[0] > 1]
    alignments = midi_alignment.measure_alignments(*both(tmp_path, notes, shift), HZ)
    assert [a.seconds for a in alignments] == pytest.approx([shift, shift], abs=0.012)
    warning = alignment_warning(alignments)
    assert (warning is None) == (shift == 0)
    assert not warning or int(re.search(r"(\d+) ms", warning)[1]) == pytest.approx(abs(1000 * shift), abs=12)
    assert shift <= 0.05 or "after" in warning
    assert shift >= -0.05 or "before" in warning


@pytest.mark.parametrize("frames", [-3.4, -0.3, 0.0, 0.2, 0.45, 7.7])
def test_lag_is_measured_between_frames(frames):
    """A parabola through the best lag and its neighbours: a frame of 4 ms is coarser than the fits that start there."""
    onsets = np.arange(300, 3000, 97)
    time = np.arange(4000)
    envelope = np.exp(-(((time[:, None] - onsets - frames) / 3) ** 2)).sum(axis=1)
    notes = np.zeros(4000)
    notes[onsets] = 1
    alignment = midi_alignment._best_lag(envelope - envelope.mean(), notes)
    assert alignment.seconds * midi_alignment.ENVELOPE_HZ == pytest.approx(frames, abs=0.05)


def test_wrong_midi_and_clock_drift_are_reported(tmp_path):
    pcm, _ = both(tmp_path, piece(1))
    other = both(tmp_path, piece(2))[1]
    assert "is it the MIDI of this recording?" in alignment_warning(midi_alignment.measure_alignments(pcm, other, HZ))
    drifting = alignment_warning(midi_alignment.measure_alignments(*both(tmp_path, piece(1), drift=1.0015), HZ))
    assert "ms after the notes at the start and" in drifting


def test_uncertain_alignment_gives_no_warning(tmp_path):
    few = both(tmp_path, piece(3)[:5], seconds=5.0)
    silent = np.zeros(HZ * 90, dtype=np.int16), few[1]
    assert midi_alignment.measure_alignments(*few, HZ) == midi_alignment.measure_alignments(*silent, HZ) == []
    late = replace(few[1], onset=few[1].onset + 100)
    assert midi_alignment.measure_alignments(few[0], late, HZ) == []
    assert alignment_warning([]) is None
    assert alignment_warning([Alignment(0.3, 3.0)]) is None  # one window, and not clear
    assert "300 ms after" in alignment_warning([Alignment(0.3, 9.0)])
    assert alignment_warning([Alignment(0.01, 9.0), Alignment(0.7, 3.0)]) is None  # the clear one counts
    assert midi_alignment.trusted_seconds([]) is midi_alignment.trusted_seconds([Alignment(0.3, 3.0)]) is None
    assert midi_alignment.trusted_seconds([Alignment(0.2, 3.0), Alignment(0.7, 3.0)]) is None
    assert midi_alignment.trusted_seconds([Alignment(0.30, 3.0), Alignment(0.31, 3.0)]) == pytest.approx(0.305)
    assert midi_alignment.trusted_seconds([Alignment(0.01, 9.0), Alignment(0.7, 3.0)]) == 0.01


@pytest.mark.parametrize("shift", [5.0, -5.0, 12.0])
@pytest.mark.parametrize("seconds", [90.0, 40.0])
def test_lags_beyond_the_search_are_reported(tmp_path, shift, seconds):
    notes = [note for note in piece(0, seconds) if note[0] > 6]
    warning = alignment_warning(midi_alignment.measure_alignments(*both(tmp_path, notes, shift, seconds), HZ))
    assert warning.startswith("the sound does not agree with the notes within 1 s; ")
    if seconds == 90:  # Two windows confirm the lag.
        match = re.search(r"it does ([\d.]+) s (after|before) them$", warning)
        assert float(match[1]) == pytest.approx(abs(shift), abs=0.03) and match[2] == (
            "after" if shift > 0 else "before"
        )


@pytest.mark.parametrize("shift", [0.0, 0.3, -0.6])
def test_short_pieces_are_checked(tmp_path, shift):
    """A window of 20 s counts although its agreement is not clear; sounds that overlap make it so."""
    notes = [note for note in piece(0, 40.0) if note[0] > 1]
    alignments = midi_alignment.measure_alignments(*both(tmp_path, notes, shift, 40.0), HZ)
    unclear = [replace(alignment, agreement=3.0) for alignment in alignments]
    assert len(unclear) == 1 and unchecked_warning(unclear) is None
    warning = alignment_warning(unclear)
    assert (warning is None) == (shift == 0)
    assert not warning or int(re.search(r"(\d+) ms", warning)[1]) == pytest.approx(abs(1000 * shift), abs=12)


def test_foreign_midi_of_a_short_piece_is_reported(tmp_path):
    pcm, _ = both(tmp_path, piece(1, 40.0), seconds=40.0)
    other = both(tmp_path, piece(2, 40.0), seconds=40.0)[1]
    assert alignment_warning(midi_alignment.measure_alignments(pcm, other, HZ)) == (
        "the sound does not agree with the notes within 1 s; is it the MIDI of this recording?"
    )


def test_what_was_not_checked_is_said(tmp_path):
    few = both(tmp_path, piece(3)[:5], seconds=5.0)
    assert "fewer than 8 onsets" in unchecked_warning(midi_alignment.measure_alignments(*few, HZ))
    assert "12 s are too short" in unchecked_warning([Alignment(0.3, 3.0, window_seconds=12.0)])
    assert unchecked_warning([Alignment(0.3, 9.0, window_seconds=12.0)]) is None
    assert unchecked_warning([Alignment(0.3, 3.0), Alignment(0.7, 3.0)]) is None  # They disagree, which is a finding.
    recording = Recording(0, "Bach", "Fuge", "train", 2004, "a.mid", "a.wav", 5.0)
    assert dataset_card.measure_facts(recording, *few, HZ).warnings == [unchecked_warning([])]


def test_silence_before_the_first_note_is_said(tmp_path, capsys):
    path = write_midi(tmp_path / "late.mid", [(3600.0, 3600.5, 60, 90)])
    performance = read_performance(path)
    words = "its first note begins after 3600 s of silence"
    assert f"{path}: {words}" in capsys.readouterr().err
    recording = Recording(0, "Bach", "Fuge", "train", 2004, "a.mid", "a.wav", 1.0)
    facts = dataset_card.measure_facts(recording, np.ones(HZ, np.int16), performance, HZ)
    assert any(words in warning for warning in facts.warnings)
    read_performance(write_midi(tmp_path / "soon.mid", [(20.0, 20.5, 60, 90)]))
    assert capsys.readouterr().err == ""


def test_silence_is_measured_in_blocks():
    pcm = np.zeros(HZ, dtype=np.int16)
    pcm[4000:8000] = 20 * (-1) ** np.arange(4000)  # -64 dB
    pcm[8000:12000] = 60 * (-1) ** np.arange(4000)  # -55 dB
    silent = silent_blocks(pcm, HZ)
    assert (
        silent.shape == (50,) and silent.sum() == 37
    )  # 12.5 of 50 blocks are above the threshold, the halves among them
    assert silent[:25].all() and not silent[25:37].any()
    assert silent_blocks(pcm[:100], HZ).shape == (0,)


def test_facts_and_card_count_notes_and_seconds(tmp_path):
    notes = [(0.1, 0.2, 60, 10), (0.3, 0.4, 60, 20), (0.5, 0.6, 21, 20), (5.0, 5.1, 108, 127)]
    pcm, performance = both(tmp_path, notes, seconds=1.0)
    recording = Recording(0, "Bach", "Fuge", "train", 2004, "a.mid", "a.wav", 1.2)
    facts = dataset_card.measure_facts(recording, pcm, performance, HZ)
    assert (facts.pitches[0], facts.pitches[39], sum(facts.pitches)) == (1, 2, 3)
    assert (facts.velocities[10], facts.velocities[20], facts.velocities[127]) == (1, 2, 0)
    assert facts.midi_outlasts_seconds == pytest.approx(4.1, abs=0.002)
    assert facts.peak == np.abs(pcm).max() / 32768
    assert facts.warnings == [
        "lasts 1.00 s, but 1.20 s according to the metadata",
        "1 of its notes begin after the audio's end at 1.0 s",
        "its notes were not compared with the sound: fewer than 8 onsets, or silence",
    ]
    assert dataset_card.facts_from(json.loads(json.dumps(asdict(facts)))) == facts
    for broken in ({}, {**asdict(facts), "pitches": [1]}, {**asdict(facts), "more": 1}):
        with pytest.raises((TypeError, ValueError)):
            dataset_card.facts_from(broken)


def test_card_is_written_and_sums_up_the_recordings(tmp_path):
    lines = [",".join(COLUMNS)]
    for i, split in enumerate(("train", "train", "validation")):
        struck(tmp_path / f"maestro/2004/{i}_16000.wav", piece(i, 20.0), 20.0)
        write_midi(tmp_path / f"maestro/2004/{i}.midi", piece(i, 20.0))
        lines.append(f"Bach,Fuge,{split},200{i},2004/{i}.midi,2004/{i}.wav,{20.0 + i}")
    (tmp_path / "maestro/maestro-v2.0.0.csv").write_text("\n".join(lines), encoding="utf-8")
    options = settings(
        f"preprocess_config.maestro_dir={tmp_path}/maestro",
        "preprocess_config.split=all",
        f"preprocess_config.out_dir={tmp_path}/data",
    )
    done = call(preprocess_maestro, *options, "--json")
    assert done.code == 0
    assert done.result["splits"].keys() == {"train", "validation"}
    assert sum(split["notes"] for split in done.result["splits"].values()) == done.result["notes"]
    assert done.result["warnings"].keys() == {"2004/1.wav", "2004/2.wav"}
    card = json.loads((tmp_path / "data/train/dataset_card.json").read_text(encoding="utf-8"))
    assert (card["recordings"], card["recordings_left_out"], card["composers"]) == (2, 0, 1)
    assert card["hours"] == pytest.approx(40 / 3600, abs=1e-4) and card["years"] == {"2000": 1, "2001": 1}
    assert sum(card["pitch_histogram"]["notes"]) == sum(card["velocity_histogram"]) == card["notes"]
    assert card["notes"] == done.result["splits"]["train"]["notes"] == len(piece(0, 20.0)) + len(piece(1, 20.0))
    assert sum(card["peak_histogram"]["recordings"]) == 2
    assert card["warnings"] == {"2004/1.wav": ["lasts 20.00 s, but 21.00 s according to the metadata"]}
    assert abs(card["sound_after_notes_ms"]["median"]) < 15
    assert (tmp_path / "data/train/dataset_card.png").read_bytes()[:4] == b"\x89PNG"
    none = call(preprocess_maestro, *options, "--set", "preprocess_config.split=test")
    assert none.code == 2 and "no recordings of split 'test'" in none.err


def test_only_changed_sources_are_preprocessed_again(tmp_path):
    for i in range(2):
        struck(tmp_path / f"maestro/2004/{i}_16000.wav", piece(i, 5.0), 5.0)
        write_midi(tmp_path / f"maestro/2004/{i}.midi", piece(i, 5.0))
    rows = [f"Bach,Fuge,train,2004,2004/{i}.midi,2004/{i}.wav,5.0" for i in range(2)]
    (tmp_path / "maestro/maestro-v2.0.0.csv").write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")
    options = settings(
        f"preprocess_config.maestro_dir={tmp_path}/maestro", f"preprocess_config.out_dir={tmp_path}/data"
    )
    first = call(preprocess_maestro, *options, "--json").result
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    write_midi(tmp_path / "maestro/2004/1.midi", piece(7, 5.0)[:4])
    second = call(preprocess_maestro, *options, "--json").result
    assert second["notes"] == first["notes"] - len(piece(1, 5.0)) + 4
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {
        "1.npy",
        "1.npz",
        "1.json",
        "filenames.csv",
        "dataset_card.json",
        "dataset_card.png",
    }
    (tmp_path / "maestro/2004/0_16000.wav").unlink()  # gone, to save space: what was made of it stays
    assert call(preprocess_maestro, *options, "--json").result["recordings"] == 2


@pytest.mark.skipif(not DISKLAVIER.is_dir(), reason="no ../shared/data/disklavier-maestro-layout on this machine")
def test_real_recordings_agree_with_their_own_midi_only():
    recordings = select_split(read_metadata(DISKLAVIER), "test") + select_split(read_metadata(DISKLAVIER), "validation")
    sounds = [soundfile.read(DISKLAVIER / r.audio_filename, dtype="int16")[0] for r in recordings]
    performances = [read_midi(DISKLAVIER / r.midi_filename) for r in recordings]
    for i, pcm in enumerate(sounds):
        own = midi_alignment.measure_alignments(pcm, performances[i], HZ)
        assert alignment_warning(own) is None and all(-0.015 < a.seconds < 0.04 for a in own), recordings[i]
        foreign = midi_alignment.measure_alignments(pcm, performances[i - 3], HZ)
        assert alignment_warning(foreign), recordings[i]
        late = midi_alignment.measure_alignments(np.pad(pcm, (5 * HZ, 0)), performances[i], HZ)
        assert "does not agree with the notes within 1 s" in alignment_warning(late), recordings[i]
        assert len(late) < 2 or re.search(r"it does (4.9|5.0)\d s after", alignment_warning(late)), recordings[i]


@pytest.mark.skipif(not MAESTRO_CLIP.is_dir(), reason=f"no {DATA.name}/maestro-clip on this machine")
def test_maestro_clip_causes_a_warning(tmp_path):
    audio_io.resample_file(next(MAESTRO_CLIP.glob("*.wav")), tmp_path / "clip.wav", HZ)
    performance = read_midi(next(MAESTRO_CLIP.glob("*.midi")))
    recording = Recording(0, "", "", "train", 2018, "", "", 704.1)
    facts = dataset_card.measure_facts(recording, audio_io.read_pcm(tmp_path / "clip.wav", HZ), performance, HZ)
    assert facts.midi_outlasts_seconds > 700 and len(facts.warnings) == 3
