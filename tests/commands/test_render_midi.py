"""Rendering MIDI: the plan and the labels everywhere, the sound where a synthesizer is installed."""

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import render_midi
from midi2wave.data import rendering, synthesizers
from midi2wave.data.maestro import read_metadata
from midi2wave.data.rendering import piece_title
from midi2wave.midi.performance import SOFT, SOSTENUTO, SUSTAIN
from midi2wave.midi.reader import read_midi
from midi2wave.midi.writer import end_with_last_sound
from midi2wave.utils import folder_lock
from tests.helpers.fake_piano import performance
from tests.helpers.pipeline import (
    assert_failed,
    assert_no_partial_files,
    assert_refused,
    call,
    modification_times,
    read_files,
    write_maestro,
    write_midi,
)

NOTES = [(0.5, 1.0, 60, 80), (1.0, 1.5, 64, 80)]


def needs(renderer):
    """Skips where a synthesizer is not installed."""
    return pytest.mark.skipif(not synthesizers.is_installed(renderer), reason=synthesizers.INSTALL[renderer])


@pytest.fixture(
    params=[
        pytest.param("tinysoundfont", marks=needs("tinysoundfont")),
        pytest.param("fluidsynth", marks=[pytest.mark.fluidsynth, needs("fluidsynth")]),
    ]
)
def renderer(request):
    return request.param


@pytest.fixture
def midis(tmp_path):
    folder = tmp_path / "midi"
    for name in ("Bach__Fugue__A", "Bach__Fugue_no_repeat__B", "Haydn__Sonata__1__A", "Haydn__Sonata__2__A", "song"):
        write_midi(folder / f"{name}.mid", NOTES)
    return folder


@pytest.fixture
def played(monkeypatch):
    """Sines in place of a synthesizer; the instruments that were asked for."""
    calls = []

    def play(midi, seconds, instrument):
        calls.append(instrument)
        time = np.arange(round(seconds * rendering.AUDIO_HZ)) / rendering.AUDIO_HZ
        return np.tile(instrument.gain * np.sin(2 * np.pi * 440 * time)[:, None], 2).astype(np.float32)

    monkeypatch.setattr(rendering, "play", play)
    monkeypatch.setattr(synthesizers, "is_installed", lambda _: True)
    return calls


@pytest.fixture
def soundfont(tmp_path):
    path = tmp_path / "piano.sf2"
    path.write_bytes(b"RIFF\0\0\0\0sfbk")
    return path


def splits(folder):
    with open(folder / "maestro-v2.0.0.csv", encoding="utf-8", newline="") as handle:
        return {row["midi_filename"].split("/")[1].split(".")[0]: row["split"] for row in csv.DictReader(handle)}


def test_piece_titles():
    assert piece_title("Bach__Fugue__bwv_880__Sun02") == ("Bach", "Fugue__bwv_880")
    assert piece_title("Schumann__Toccata_repeat__WangY07M") == piece_title("Schumann__Toccata__Dulu03")
    assert piece_title("Schumann__Kreisleriana__1_no_first_repeat__X") == piece_title("Schumann__Kreisleriana__1__Y")
    assert piece_title("a_song") == ("unknown", "a_song")


def test_rendered_data_set_is_read_by_the_next_commands(midis, soundfont, tmp_path, played):
    done = call(render_midi, "-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--test", "0.3", "--json")
    assert done.code == 0 and done.result["files"] == len(played) == 5
    recordings = read_metadata(tmp_path / "out")
    assert [r.duration for r in recordings] == pytest.approx([3.5] * 5)  # two seconds after the last damper
    for recording in recordings:
        assert soundfile.info(tmp_path / "out" / recording.audio_filename).samplerate == 64000
        assert len(read_midi(tmp_path / "out" / recording.midi_filename).onset) == 2
    split_by_name = splits(tmp_path / "out")
    assert split_by_name["Bach__Fugue__A"] == split_by_name["Bach__Fugue_no_repeat__B"]
    assert set(split_by_name.values()) == {"train", "validation", "test"}
    assert sum(done.result["hours"].values()) == pytest.approx(5 * 3.5 / 3600, rel=1e-3)
    assert_no_partial_files(tmp_path / "out")


def test_splits_depend_on_the_seed_alone(midis, soundfont, tmp_path, played):
    options = ["-d", midis, "--soundfont", soundfont, "--test", "0.4", "--validation", "0"]
    results = []
    for number, seed in enumerate([0, 0, *range(1, 8)]):
        assert call(render_midi, *options, "-o", tmp_path / str(number), "--seed", str(seed)).code == 0
        results.append(splits(tmp_path / str(number)))
    assert results[0] == results[1] and any(result != results[0] for result in results)
    for result in results:
        assert result["Bach__Fugue__A"] == result["Bach__Fugue_no_repeat__B"]
        assert set(result.values()) == {"train", "test"}


def test_a_maestro_folder_keeps_its_splits_and_years(soundfont, tmp_path, played):
    write_maestro(tmp_path / "maestro")
    assert call(render_midi, "-d", tmp_path / "maestro", "-o", tmp_path / "out", "--soundfont", soundfont).code == 0
    originals, rendered = read_metadata(tmp_path / "maestro"), read_metadata(tmp_path / "out")
    assert [(r.split, r.year, r.title, r.composer) for r in rendered] == [
        (r.split, r.year, r.title, r.composer) for r in originals
    ]


def test_only_changed_midi_is_rendered_again(midis, soundfont, tmp_path, played):
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont]
    call(render_midi, *command)
    before, written = read_files(tmp_path / "out"), modification_times(tmp_path / "out")
    assert call(render_midi, *command).code == 0
    assert read_files(tmp_path / "out") == before and len(played) == 5
    audio = [name for name in written if name.endswith(".flac")]
    assert all(modification_times(tmp_path / "out")[name] == written[name] for name in audio)
    write_midi(midis / "song.mid", [*NOTES, (2.0, 2.5, 50, 80)])
    (tmp_path / "out/2000/Bach__Fugue__A.flac").unlink()
    assert call(render_midi, *command).code == 0
    assert len(played) == 7
    assert len(read_midi(tmp_path / "out/2000/song.midi").onset) == 3


def test_other_instrument_needs_force(midis, soundfont, tmp_path, played):
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont]
    call(render_midi, *command)
    assert_refused(call(render_midi, *command, "--gain", "0.5"), "holds results of another config", "--force")
    assert call(render_midi, *command, "--gain", "0.5", "--force").code == 0
    assert len(played) == 10 and played[-1].gain == 0.5


def test_force_keeps_pieces_of_other_files_and_files_of_the_user(midis, soundfont, tmp_path, played):
    """A piece that stays is not taken for one of the new settings later."""
    out, options = tmp_path / "out", ["--soundfont", soundfont]
    assert call(render_midi, "-d", midis, "-o", out, *options).code == 0
    mine = [out / "2000/mine.flac", out / "2000/mine_2.wav", out / "mine/song.midi"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    before = read_files(out)
    write_midi(tmp_path / "one/song.mid", NOTES)
    quiet = ("-o", out, *options, "--gain", "0.5")
    assert_refused(call(render_midi, "-d", midis, *quiet), "renders the files of this call again and removes nothing")
    assert call(render_midi, "-d", tmp_path / "one", *quiet, "--force").code == 0
    changed = {name for name, content in read_files(out).items() if before.get(name) != content}
    assert changed == {"2000/song.flac", "maestro-v2.0.0.csv", "render.json"} and set(splits(out)) == {"song"}
    later = call(render_midi, "-d", midis, *quiet, "--json")
    assert later.code == 1 and later.result["files"] == 1
    assert all("of other settings" in failure["reason"] for failure in later.result["failures"])
    assert call(render_midi, "-d", midis, *quiet, "--force").code == 0
    assert all(path.read_bytes() == b"mine" for path in mine) and len(splits(out)) == 5


def test_second_run_is_refused_and_leftovers_are_removed(midis, soundfont, tmp_path, played):
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont]
    with folder_lock.lock_folder(tmp_path / "out"):
        assert_refused(call(render_midi, *command), "another run is working on")
    assert call(render_midi, *command).code == 0
    for name in ("2000/.song.flac.4711-0123abcd.partial", ".render.json.12-0123abcd.partial"):
        (tmp_path / "out" / name).write_bytes(b"half")
    assert call(render_midi, *command).code == 0 and len(played) == 5
    assert_no_partial_files(tmp_path / "out")


def test_a_folder_of_a_former_version_is_accepted(midis, soundfont, tmp_path, played):
    command, record = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont], tmp_path / "out/render.json"
    for options, n_played in (([], 5), ([], 5), (["--gain", "0.5", "--force"], 10)):
        assert call(render_midi, *command, *options).code == 0 and len(played) == n_played
        stored = json.loads(record.read_text(encoding="utf-8"))
        del stored["products"]
        record.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def test_bad_files_are_listed_and_left_out(midis, soundfont, tmp_path, played):
    (midis / "text.mid").write_text("a letter")
    (midis / "deeper").mkdir()
    write_midi(midis / "deeper" / "song.mid", NOTES)
    done = call(render_midi, "-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--json")
    assert_failed(done, 1, text="not a MIDI file", song="would be written over")
    assert done.result["files"] == 5 and "text" not in splits(tmp_path / "out")


@pytest.mark.parametrize(("gain", "words"), [(2.0, "clips; lower --gain"), (0.0001, "only silence")])
def test_clipping_or_silent_pieces_are_failures(midis, soundfont, tmp_path, played, monkeypatch, gain, words):
    monkeypatch.setattr(render_midi, "find_instrument", lambda *_: rendering.Instrument("", soundfont, 0, gain, False))
    done = call(render_midi, "-d", midis, "-o", tmp_path / "out", "--json")
    assert done.code == 2 and all(words in failure["reason"] for failure in done.result["failures"])


def test_missing_programs_files_and_folders_are_reported(midis, soundfont, tmp_path, monkeypatch):
    out = ["-o", tmp_path / "out"]
    monkeypatch.setattr(synthesizers, "is_installed", lambda _: False)
    refused = call(render_midi, "-d", midis, *out)
    assert_refused(refused, "tinysoundfont is not installed", "pip install", "--renderer fluidsynth")
    refused = call(render_midi, "-d", midis, *out, "--renderer", "fluidsynth")
    assert_refused(refused, "fluidsynth is not installed", "apt-get install", "--renderer tinysoundfont")
    monkeypatch.setattr(synthesizers, "is_installed", lambda _: True)
    with monkeypatch.context() as without_soundfonts:
        without_soundfonts.setattr(synthesizers, "SOUNDFONT_FOLDERS", (str(tmp_path),))
        without_soundfonts.setattr(synthesizers, "SHIPPED_SOUNDFONT", "gone.sf2")
        assert_refused(call(render_midi, "-d", midis, *out), "no soundfont is installed", "--soundfont")
    assert_refused(call(render_midi, "-d", midis, *out, "--effects"), "--effects needs FluidSynth", "--renderer")
    assert_refused(call(render_midi, "-d", midis, *out, "--soundfont", midis / "song.mid"), "is not a soundfont")
    assert_refused(call(render_midi, "-d", midis, *out, "--soundfont", tmp_path / "gone.sf2"), "gone.sf2")
    assert_refused(call(render_midi, "-d", tmp_path / "gone", *out, "--soundfont", soundfont), "no such folder")
    (tmp_path / "empty").mkdir()
    assert_refused(call(render_midi, "-d", tmp_path / "empty", *out, "--soundfont", soundfont), "holds no MIDI files")
    for inside in (midis, midis / "out"):
        assert_refused(
            call(render_midi, "-d", midis, "-o", inside, "--soundfont", soundfont), "--out lies in the folder of"
        )
    for option, value in (("--gain", "0"), ("--program", "128"), ("--test", "0.9"), ("--seed", "-1"), ("--jobs", "0")):
        assert_refused(call(render_midi, "-d", midis, *out, "--soundfont", soundfont, option, value), option)
    assert not (tmp_path / "out").exists()


def test_the_renderer_is_part_of_the_record(midis, soundfont, tmp_path, played):
    """Folders of FluidSynth, which earlier versions wrote without naming it, are not mixed with others."""
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont]
    assert call(render_midi, *command, "--renderer", "fluidsynth").code == 0
    assert "renderer" not in (tmp_path / "out/render.json").read_text()
    assert_refused(call(render_midi, *command), "holds results of another config", "--force")
    done = call(render_midi, *command, "--force")
    assert done.code == 0 and "tinysoundfont plays program 0 of" in done.err


def write_piece(folder, notes, program):
    """Write a performance as the file of a folder to render."""
    folder.mkdir()
    end_with_last_sound(notes)[0].to_pretty_midi(program).write(folder / "a.mid")


def test_the_labels_are_played(renderer, tmp_path):
    notes = performance([(0.5, 0.8, 69, 100), (3.0, 3.3, 69, 40)], pedal=[(0.6, 127), (2.5, 0)])
    write_piece(tmp_path / "midi", notes, 40)  # the instrument is the piano, not the violin of the file
    outcome = call(render_midi, "-d", tmp_path / "midi", "-o", tmp_path / "out", "--renderer", renderer, "--json")
    assert outcome.code == 0, outcome.err
    sound, hz = soundfile.read(tmp_path / "out/2000/a.flac")
    assert sound.shape == (round(5.3 * hz), 2)
    mono = sound.mean(axis=1)

    def level(start, end):
        return np.sqrt(np.mean(mono[round(start * hz) : round(end * hz)] ** 2))

    def strongest(start, end):
        part = mono[round(start * hz) : round(end * hz)]
        return np.argmax(np.abs(np.fft.rfft(part * np.hanning(len(part))))) * hz / len(part)

    assert level(0, 0.48) < 1e-4 < 1e-3 < level(0.5, 0.6)  # the attack is where the label says
    assert strongest(0.6, 1.6) == pytest.approx(440, abs=3)
    assert level(1.5, 2.4) > 20 * level(2.8, 2.95)  # the pedal holds the note
    assert level(0.5, 0.8) > 2 * level(3.0, 3.3)  # velocity
    assert level(4.5, 5.3) < 1e-4
    assert outcome.result["peak_db"] < -3


def test_every_note_starts_equally_late_to_the_sample(renderer, tmp_path):
    """What `measure_partials.py` relies on: notes of a key differ in their level alone."""
    onset = [0.5, 2.0 + 0.0013, 3.5 + 0.0107, 5.0 + 0.0221]
    notes = [(time, time + 0.6, 60, velocity) for time, velocity in zip(onset, (90, 90, 40, 110), strict=True)]
    write_piece(tmp_path / "midi", performance(notes), 0)
    outcome = call(render_midi, "-d", tmp_path / "midi", "-o", tmp_path / "out", "--renderer", renderer)
    assert outcome.code == 0, outcome.err
    labels = read_midi(tmp_path / "out/2000/a.midi").onset
    sound, hz = soundfile.read(tmp_path / "out/2000/a.flac")
    first, *others = (sound[round(time * hz) :][: hz // 2].mean(axis=1) for time in labels)
    for other in others:
        rest = other - first * (other @ first) / (first @ first)
        assert np.linalg.norm(rest) < 0.01 * np.linalg.norm(other)


@needs("tinysoundfont")
def test_rendering_needs_no_program_of_the_system(midis, tmp_path, monkeypatch):
    """With pip alone: tinysoundfont plays the soundfont that pretty_midi ships, from the onset's own sample on."""
    monkeypatch.setattr(synthesizers.shutil, "which", lambda _: None)
    monkeypatch.setattr(synthesizers, "SOUNDFONT_FOLDERS", ())
    done = call(render_midi, "-d", midis, "-o", tmp_path / "out", "-j", "2", "--json")
    assert done.code == 0, done.err
    assert "TimGM6mb.sf2" in done.err and done.result["files"] == 5
    sound, hz = soundfile.read(tmp_path / "out/2000/song.flac")
    audible = np.flatnonzero(np.abs(sound).max(axis=1) > 2 / 32768)
    onset = read_midi(tmp_path / "out/2000/song.midi").onset[0]
    assert 0 <= audible[0] - round(onset * hz) < 0.001 * hz


@needs("tinysoundfont")
def test_what_tinysoundfont_lacks_is_made_up_for():
    """Pedals, and SoundFont's amplitude, which grows with the square of the velocity."""
    instrument = synthesizers.find_instrument("tinysoundfont", None, 0, 1.0, False)

    def level(velocity, pedals, start):
        notes = replace(performance([(0.0, 0.5, 60, velocity)]), pedals=pedals)
        file = io.BytesIO()
        notes.to_pretty_midi(ticks_per_second=synthesizers.TICKS_PER_SECOND).write(file)
        sound = synthesizers.play(file.getvalue(), 2.0, instrument)
        assert sound.shape == (2 * synthesizers.AUDIO_HZ, 2) and sound.dtype == np.float32
        return np.sqrt(np.mean(sound[round(start * synthesizers.AUDIO_HZ) :] ** 2))

    down = np.array([[0.2, 127.0], [1.9, 0.0]])
    free = level(100, {}, 1.0)
    assert level(100, {SOSTENUTO: down}, 1.0) > 20 * free
    assert level(100, {SUSTAIN: down}, 1.0) == pytest.approx(level(100, {SOSTENUTO: down}, 1.0))
    assert level(100, {SOFT: down}, 1.0) == pytest.approx(free)
    assert level(100, {}, 0.0) == pytest.approx(4 * level(50, {}, 0.0), rel=0.02)


@needs("tinysoundfont")
def test_a_program_that_the_soundfont_lacks_is_reported(soundfont, tmp_path, midis):
    done = call(render_midi, "-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--json")
    assert done.code == 2 and all("tinysoundfont cannot play" in f["reason"] for f in done.result["failures"])


# ---- sound that is shorter than its labels


@pytest.fixture
def fluidsynth_stub(tmp_path, monkeypatch):
    """Puts a program named fluidsynth first on PATH; its lines may use `target`, the file that it is to write."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def install(*lines):
        find_target = 'import sys; target = sys.argv[sys.argv.index("-F") + 1]'
        (folder / "fluidsynth").write_text("\n".join([f"#!{sys.executable} -S", find_target, *lines]))
        (folder / "fluidsynth").chmod(0o755)

    return install


def assert_all_failed(done, *words):
    """Nothing was rendered, for a reason with these words."""
    assert done.code == 2 and "Traceback" not in done.err
    assert len(done.result["failures"]) == 5
    assert all(word in failure["reason"] for failure in done.result["failures"] for word in words), done.result


NO_SPACE = "fluidsynth: error: Audio file write error: System error : No space left on device."
WRITE = "open(target, 'wb').write(bytes.fromhex('0000003e0000003e') * int({seconds} * 64000))"  # Amplitudes of 1/8.


@pytest.mark.skipif(os.name == "nt", reason="the stub is a script")
def test_sound_shorter_than_the_labels_is_refused(midis, soundfont, tmp_path, fluidsynth_stub):
    """FluidSynth's exit code is 0 on a full disk."""
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--renderer", "fluidsynth", "--json"]
    fluidsynth_stub(WRITE.format(seconds=1.75), f"print({NO_SPACE!r}, file=sys.stderr)")
    done = call(render_midi, *command)
    assert_all_failed(done, f"FluidSynth played only 1.750 of 3.500 s ({NO_SPACE})", "set TMPDIR")
    assert not list((tmp_path / "out").rglob("*.flac")) and not (tmp_path / "out/maestro-v2.0.0.csv").exists()
    assert_no_partial_files(tmp_path / "out")
    fluidsynth_stub(WRITE.format(seconds=5.5))
    assert call(render_midi, *command).code == 0
    assert [r.duration for r in read_metadata(tmp_path / "out")] == [3.5] * 5
    fluidsynth_stub("sys.exit('no such soundfont')")
    assert call(render_midi, *command).code == 0  # All is there, nothing is played.
    done = call(render_midi, *command, "--force")
    assert_all_failed(done, "did not play it (exit code 1): no such soundfont")


@pytest.mark.skipif(os.name == "nt", reason="the stub is a script")
def test_sound_of_more_than_4_gib_is_whole(soundfont, fluidsynth_stub):
    """2.4 h of float stereo at 64 kHz, in a sparse file that is mapped."""
    seconds = 2.4 * 3600
    fluidsynth_stub(f"open(target, 'wb').truncate(round({seconds} * 64000) * 8)")
    sound = synthesizers.play(b"", seconds, synthesizers.Instrument("fluidsynth", soundfont, 0, 1.0, False))
    assert sound.shape == (round(seconds * 64000), 2) and sound.nbytes > 2**32
    assert not sound[-1000:].any()


@pytest.mark.fluidsynth
@needs("fluidsynth")
def test_fluidsynth_on_a_full_disk(midis, tmp_path, monkeypatch, limit_file_size):
    # Python gives its children the default action of SIGXFSZ, which would kill them: a full disk does not.
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "fluidsynth"
    wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {shutil.which('fluidsynth')} \"$@\"\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    command = ["-d", midis, "-o", tmp_path / "out", "--renderer", "fluidsynth", "--json"]
    with limit_file_size(2**20):  # 2 s
        done = call(render_midi, *command)
    assert_all_failed(done, "FluidSynth played only 2.048 of 3.500 s (", "File too large")
    assert call(render_midi, *command).code == 0
    assert [r.duration for r in read_metadata(tmp_path / "out")] == [3.5] * 5


def test_a_full_disk_for_the_data_set(midis, soundfont, tmp_path, played, limit_file_size):
    with limit_file_size(2**15):
        done = call(render_midi, "-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--json")
    assert_all_failed(done, "was not written whole")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".flac", ".midi", ".csv")]
    assert_no_partial_files(tmp_path / "out")


@pytest.mark.parametrize("kind", ["cut", "damaged", "longer"])
def test_what_was_rendered_too_short_is_rendered_again(midis, soundfont, tmp_path, played, kind):
    """Data sets of earlier versions are checked when the command is run again."""
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--json"]
    call(render_midi, *command)
    whole = read_files(tmp_path / "out")
    path = tmp_path / "out/2000/song.flac"
    sound, hz = soundfile.read(path)
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:20_000])
    else:
        soundfile.write(path, sound[: hz * 5 // 4] if kind == "cut" else np.concatenate([sound, sound]), hz)
    done = call(render_midi, *command)
    assert done.code == 0 and len(played) == 6
    assert {"cut": "has 1.250 of 3.500 s", "damaged": "is damaged", "longer": "has 7.000"}[kind] in done.err
    assert read_files(tmp_path / "out") == whole


def test_sound_that_does_not_fit_is_refused(midis, soundfont, tmp_path, monkeypatch, fluidsynth_stub):
    command = ["-d", midis, "-o", tmp_path / "out", "--soundfont", soundfont, "--json"]
    fluidsynth_stub("open(target, 'wb').write(b'')")
    free = SimpleNamespace(total=10**9, used=0, free=10**6)
    monkeypatch.setattr(synthesizers.shutil, "disk_usage", lambda _: free)
    done = call(render_midi, *command, "--renderer", "fluidsynth")
    assert_all_failed(done, "FluidSynth writes 2 MB to ", "where 1 MB are free")

    def play(*_):
        raise MemoryError

    monkeypatch.setattr(synthesizers, "is_installed", lambda _: True)
    monkeypatch.setattr(synthesizers, "_play_tinysoundfont", play)
    done = call(render_midi, *command, "--force")
    assert_all_failed(done, "too much memory")
