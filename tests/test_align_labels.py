"""Labels that are off by milliseconds are put where the strokes are, by what is heard alone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_measure_strings import HZ, make_folder
from tiny_road import write_midi

import align_labels
import measure_strings
import processed_folder
import strokes
from audio import FULL_SCALE
from conditioning import PARTIAL_CHANNEL
from demo_piano import render
from errors import InputError
from midi import read_midi
from processed_folder import ProcessedFolder


def onsets(folder):
    """Onsets and pitches of a folder's notes, by recording and pitch and in the order of time."""
    played = [ProcessedFolder(folder).performance(i) for i in range(len(ProcessedFolder(folder).rows))]
    order = [np.lexsort((p.onset, p.pitch)) for p in played]
    return (
        np.concatenate([p.onset[o] for p, o in zip(played, order, strict=True)]),
        np.concatenate([p.pitch[o] for p, o in zip(played, order, strict=True)]),
    )


def errors_of(folder, truth):
    """By how much onsets are off, seconds [N], but for what is the same for all strokes of a key: where in time a
    string's phases are read is anyone's choice."""
    (onset, pitch), (true, same) = onsets(folder), onsets(truth)
    np.testing.assert_array_equal(pitch, same)
    error = onset - true
    return (
        error
        - np.array([np.median(error[pitch == p]) for p in range(128) if (pitch == p).any()])[
            np.unique(pitch, return_inverse=True)[1]
        ]
    )


def measured(folder, path):
    path.with_suffix(".plain").write_text(json.dumps({"data_config": {"excitation_quadrature": True}}))
    measure_strings.main(["-d", str(folder), "-c", str(path.with_suffix(".plain")), "-o", str(path)])
    return path


def align(folder, config, out, *more):
    return align_labels.main([*map(str, ("-d", folder, "-c", config, "-o", out, *more))])


def demo_folder(folder, tmp_path, jitter, pieces=4, seed=0):
    """Pieces of random notes, chords too, by the demo's piano; labels off by up to `jitter` s, louder notes earlier."""
    rng, rows = np.random.default_rng(seed), []
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": HZ}}, force=False)
    for index in range(pieces):
        time, notes = 0.2, []
        while time < 60:
            for pitch in rng.choice(np.arange(50, 74, 2), rng.integers(1, 3), replace=False):
                notes.append((round(time, 3), round(time, 3) + 0.55, int(pitch), int(rng.integers(45, 110))))
            time += float(rng.uniform(0.58, 0.7))
        midi = write_midi(tmp_path / f"{seed}_{index}.mid", notes)
        played, sound = read_midi(midi), render(midi, HZ).mean(axis=1)
        off = rng.uniform(-jitter, jitter, len(played.onset)) - (jitter and 3e-5) * (played.velocity - 64)
        onset = played.onset + off
        order = np.lexsort((played.pitch, onset))
        columns = {"onset": onset, "offset": played.offset + off, "pitch": played.pitch, "velocity": played.velocity}
        labelled = replace(played, **{name: column[order] for name, column in columns.items()})
        name, seconds = f"{index}.wav", len(sound) / HZ
        rows.append(processed_folder.Row(index, name, "", "train", 2000, seconds, len(sound), len(onset), "", ""))
        processed_folder.write_recording(folder, rows[-1], np.rint(sound * (FULL_SCALE - 1)).astype(np.int16), labelled)
    processed_folder.finish_folder(folder, rows)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's piano with true labels, with labels that are off, and the config that is measured from these."""
    folder = tmp_path_factory.mktemp("demo")
    demo_folder(folder / "true", folder, 0.0)
    demo_folder(folder / "off", folder, 0.005)
    measured(folder / "off", folder / "measured.json")
    return folder


def test_the_demo_pianos_onsets_are_found(demo, tmp_path, capsys):
    assert align(demo / "off", demo / "measured.json", tmp_path / "aligned") == 0
    assert "is it the MIDI" not in capsys.readouterr().err
    before, after = (np.abs(errors_of(folder, demo / "true")) for folder in (demo / "off", tmp_path / "aligned"))
    assert (before < 1e-4).mean() < 0.1
    assert (after < 1e-4).mean() > 0.8


def test_a_recording_under_another_ones_midi_is_left_and_told(demo, tmp_path, capsys):
    """Recording 2 has the notes of recording 3: whatever lag `alignment.py` finds there is of no use."""
    shutil.copytree(demo / "off", tmp_path / "mixed")
    folder = ProcessedFolder(demo / "off")
    processed_folder.write_recording(tmp_path / "mixed", folder.rows[2], np.array(folder.pcm(2)), folder.performance(3))
    processed_folder.finish_folder(tmp_path / "mixed", folder.rows)
    assert align(tmp_path / "mixed", demo / "measured.json", tmp_path / "aligned") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "is it the MIDI of this recording?" in line]
    assert len(told) == 1 and told[0].startswith("2.wav: ") and "of its notes fit" in told[0]
    left = ProcessedFolder(tmp_path / "aligned").performance(2)
    np.testing.assert_array_equal(left.onset, folder.performance(3).onset)


@pytest.mark.parametrize(("n", "alike"), [(1, True), (3, True), (8, True), (16, True), (16, False)])
def test_strokes_of_few_partials_are_not_judged_for_random_phases_fit_them_too(n, alike):
    """Also those of which a few partials are all that is heard."""
    rng = np.random.default_rng(0)
    heard = np.where(alike | (np.arange(n) < 2), 1.0, 0.01) * np.ones((300, n))
    unit = np.exp(2j * np.pi * rng.random((300, n)))
    key = strokes._Key(unit, heard, np.zeros((300, n)), 261.6 * np.arange(1, n + 1))
    phasor = 0.9 * np.exp(2j * np.pi * rng.random(n))
    fit = strokes._best_shifts(key, phasor)[1]
    evidence, few = key.evidence(phasor, fit), n < strokes.LEAST_PARTIALS or not alike
    assert ((fit > strokes.GOOD_FIT).mean() > 0.2) == few
    assert (np.isnan(evidence) == few).all()
    assert strokes.share_that_fits(evidence) < strokes.LEAST_SHARE


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A folder whose labels are up to 10 ms early, the same with true labels, aligned, and its measured config."""
    folder = tmp_path_factory.mktemp("align")
    make_folder(folder / "true")
    make_folder(folder / "off", late=0.01)
    config = measured(folder / "off", folder / "measured.json")
    assert align(folder / "off", config, folder / "aligned") == 0
    return folder


def test_phases_are_found_where_they_were_not(road):
    strings = json.loads(measured(road / "aligned", road / "again.json").read_text())["data_config"]
    coherent = [
        np.count_nonzero(json.loads((road / name).read_text())["data_config"]["partial_phase"])
        for name in ("measured.json", "again.json")
    ]
    assert coherent[0] < 40 and coherent[1] >= 8 * 7  # eight keys of eight partials
    assert len(strings["partial_phase"]) == 88 * len(PARTIAL_CHANNEL)
    assert (np.abs(errors_of(road / "aligned", road / "true")) < 1e-4).mean() > 0.9


def test_nothing_else_changes(road):
    before, after = ProcessedFolder(road / "off"), ProcessedFolder(road / "aligned")
    assert before.rows == after.rows
    for i in range(len(before.rows)):
        np.testing.assert_array_equal(before.pcm(i), after.pcm(i))
        old, new = before.performance(i), after.performance(i)
        np.testing.assert_array_equal(old.velocity, new.velocity)
        np.testing.assert_allclose(new.offset - new.onset, old.offset - old.onset, atol=1e-9)


def test_unseen_recordings_are_aligned_like_the_others(road, tmp_path):
    """The keys' zero comes from the other folder: there is no offset of each key between the two."""
    assert align(road / "off", road / "measured.json", tmp_path / "like", "--like", road / "aligned") == 0
    (ours, _), (theirs, _) = onsets(tmp_path / "like"), onsets(road / "aligned")
    assert (np.abs(ours - theirs) < 1e-4).mean() > 0.9


def test_each_value_is_aligned_by_itself(tmp_path):
    """Two years, of which the folder's owner says that they are two rooms: an own column, which stays."""
    make_folder(tmp_path / "true", years=(2008, 2009))
    make_folder(tmp_path / "off", late=0.01, years=(2008, 2009))
    path = tmp_path / "off" / "filenames.csv"
    lines = path.read_text().splitlines()
    rooms = ["room", *(line.split(",")[4] for line in lines[1:])]
    path.write_text("".join(f"{line},{room}\n" for line, room in zip(lines, rooms, strict=True)))
    plain, config = tmp_path / "plain.json", tmp_path / "measured.json"
    plain.write_text(json.dumps({"data_config": {"global_values": ["room=2008", "room=2009"]}}))
    measure_strings.main(["-d", str(tmp_path / "off"), "-c", str(plain), "-o", str(config)])
    assert len(json.loads(config.read_text())["data_config"]["partial_hz"]) == 2 * 88 * len(PARTIAL_CHANNEL)
    assert align(tmp_path / "off", config, tmp_path / "aligned") == 0
    assert ProcessedFolder(tmp_path / "aligned").recordings == ProcessedFolder(tmp_path / "off").recordings
    error = errors_of(tmp_path / "aligned", tmp_path / "true")
    before = np.abs(errors_of(tmp_path / "off", tmp_path / "true"))
    assert np.median(np.abs(error)) < 0.2 * np.median(before)


def test_mistakes_are_told(road, tmp_path):
    config = road / "measured.json"
    with pytest.raises(InputError, match="is there already; choose another name, or use --force"):
        align(road / "off", config, road / "aligned")
    with pytest.raises(InputError, match="is what is to be read"):
        align(road / "off", config, road / "off", "--force")
    with pytest.raises(InputError, match="is not aligned; align it first"):
        align(road / "off", config, tmp_path / "out", "--like", road / "true")
    with pytest.raises(InputError, match=r"run measure_strings\.py first"):
        align(road / "off", config.with_suffix(".plain"), tmp_path / "out")
    with pytest.raises(InputError, match=r"16000 Hz, but data_config\.audio_hz = 8000"):
        align(road / "off", config, tmp_path / "out", "--set", "data_config.audio_hz=8000")
    assert not (tmp_path / "out").exists()
