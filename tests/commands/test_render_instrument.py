"""render_midi.py with a sampled instrument."""

import json

import pytest
import soundfile

import render_midi
from tests.helpers.pipeline import assert_failed, assert_refused, call, modification_times, read_files, write_midi
from tests.helpers.sfz_instrument import write_instrument, write_tone

NOTES = [(0.5, 1.0, 60, 80), (1.0, 1.5, 64, 80)]


@pytest.fixture
def midis(tmp_path):
    folder = tmp_path / "midi"
    for name in ("Haydn__Sonata__1__A", "Haydn__Sonata__2__A", "song"):
        write_midi(folder / f"{name}.mid", NOTES)
    return folder


def test_a_sampled_instrument_renders_each_missing_piece(midis, tmp_path):
    """Labels and record as with a soundfont, in parallel the same audio; what is there is not rendered again."""
    sfz = write_instrument(tmp_path / "instrument")
    command = ["-d", midis, "--instrument", sfz]
    assert call(render_midi, *command, "-o", tmp_path / "one").code == 0
    assert call(render_midi, *command, "-o", tmp_path / "two", "-j", "2").code == 0
    files = read_files(tmp_path / "one")
    assert files == read_files(tmp_path / "two")
    record = json.loads(files["render.json"])
    assert record["instrument"] == "piano.sfz" and len(record["samples_sha256"]) == 64 and "program" not in record
    audio, audio_hz = soundfile.read(tmp_path / "one/2000/song.flac")
    assert audio_hz == 64000 and len(audio) == 3.5 * 64000
    written = modification_times(tmp_path / "one")
    (tmp_path / "one/2000/song.flac").unlink()
    assert call(render_midi, *command, "-o", tmp_path / "one").code == 0
    changed = {name for name, time in modification_times(tmp_path / "one").items() if time != written[name]}
    assert "2000/song.flac" in changed and "2000/Haydn__Sonata__1__A.flac" not in changed
    assert read_files(tmp_path / "one") == files


def test_another_instrument_needs_force(midis, tmp_path):
    sfz = write_instrument(tmp_path / "instrument")
    command = ["-d", midis, "-o", tmp_path / "out", "--instrument", sfz]
    assert call(render_midi, *command).code == 0
    write_tone(tmp_path / "instrument/samples/tone 60 0.wav", 1.0, 200.0, 0.1)
    assert_refused(call(render_midi, *command), "holds results of another config", "--force")


def test_instruments_that_cannot_be_played_are_refused(midis, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["-d", midis, "-o", tmp_path / "out", "--instrument"]
    assert_refused(call(render_midi, *command, "salamander"), "python -m midi2wave.data.salamander")
    assert_refused(call(render_midi, *command, "none.sfz"), "none.sfz", "check --instrument")
    sfz = write_instrument(tmp_path / "instrument")
    assert_refused(call(render_midi, *command, sfz, "--effects"), "--effects", "leave out")
    assert_refused(call(render_midi, *command, sfz, "--soundfont", "a.sf2"), "--soundfont", "leave out")
    (tmp_path / "instrument/samples/tone 60 2.wav").unlink()
    assert_refused(call(render_midi, *command, sfz), "piano.sfz:6", "tone 60 2.wav is missing")
    assert not (tmp_path / "out").exists()


def test_damage_far_into_a_sample_fails_its_pieces(midis, tmp_path):
    """The beginning of a sample is read before all, the rest where a note is that long."""
    sfz = write_instrument(tmp_path / "instrument")
    write_midi(midis / "other.mid", [(0.0, 0.5, 60, 20)])
    sample = tmp_path / "instrument/samples/tone 63 1.wav"
    write_tone(sample, 5.0, 300.0, 0.1, seconds=4.0)
    tone, audio_hz = soundfile.read(sample)
    soundfile.write(sample.with_suffix(".flac"), tone, audio_hz)
    content = bytearray(sample.with_suffix(".flac").read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 2000] = bytes(2000)
    sample.with_suffix(".flac").write_bytes(content)
    sfz.write_text(sfz.read_text().replace("tone 63 1.wav", "tone 63 1.flac"))
    write_midi(midis / "long.mid", [(0.0, 3.8, 63, 60)])
    outcome = call(render_midi, "-d", midis, "-o", tmp_path / "out", "--instrument", sfz, "--json")
    assert_failed(outcome, 1, long="tone 63 1.flac")
    assert outcome.result["files"] == 4
