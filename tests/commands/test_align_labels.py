"""align_labels.py: labels that are off by milliseconds are corrected by the sound alone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import align_labels
import measure_partials
from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.conditioning.partials import PARTIAL_CHANNEL
from midi2wave.config import load_config
from midi2wave.data import label_alignment, midi_alignment, processed_folder
from midi2wave.data.label_alignment import align_folder
from midi2wave.data.onset_refinement import FLUX_LAG_SECONDS
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.demo_dataset.piano_synth import render
from midi2wave.midi.performance import empty_performance
from midi2wave.midi.reader import read_midi
from midi2wave.utils import folder_lock
from midi2wave.utils.errors import InputError
from tests.helpers.partials_folder import HZ, write_partials_folder
from tests.helpers.pipeline import write_midi


def onsets(folder):
    """Onsets and pitches of a folder's notes, by recording and pitch and in the order of time."""
    performances = [ProcessedFolder(folder).performance(i) for i in range(len(ProcessedFolder(folder).rows))]
    order = [np.lexsort((p.onset, p.pitch)) for p in performances]
    return (
        np.concatenate([p.onset[o] for p, o in zip(performances, order, strict=True)]),
        np.concatenate([p.pitch[o] for p, o in zip(performances, order, strict=True)]),
    )


def first_notes(performance, n):
    return replace(
        performance, **{name: getattr(performance, name)[:n] for name in ("onset", "offset", "pitch", "velocity")}
    )


def onsets_as_written(folder):
    opened = ProcessedFolder(folder)
    return np.concatenate([opened.performance(i).onset for i in range(len(opened.rows))])


def errors_of(folder, truth):
    """Errors of the onsets in seconds [N], relative to each key's median, since the time of its phases is arbitrary."""
    (onset, pitch), (true, true_pitch) = onsets(folder), onsets(truth)
    np.testing.assert_array_equal(pitch, true_pitch)
    error = onset - true
    pitches, index = np.unique(pitch, return_inverse=True)
    medians = np.array([np.median(error[pitch == p]) for p in pitches])
    return error - medians[index]


def measure(folder, path):
    """Measure the partials of a folder; returns the path of the config, `path`."""
    path.with_suffix(".plain").write_text(json.dumps({"data_config": {"excitation_quadrature": True}}))
    measure_partials.main(["-d", str(folder), "-c", str(path.with_suffix(".plain")), "-o", str(path)])
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
        performance, sound = read_midi(midi), render(midi, HZ).mean(axis=1)
        error = rng.uniform(-jitter, jitter, len(performance.onset)) - (jitter and 3e-5) * (performance.velocity - 64)
        labelled = replace(performance, onset=performance.onset + error, offset=performance.offset + error)
        order = np.lexsort((performance.pitch, labelled.onset))
        names = ("onset", "offset", "pitch", "velocity")
        labelled = replace(labelled, **{name: getattr(labelled, name)[order] for name in names})
        name, seconds = f"{index}.wav", len(sound) / HZ
        rows.append(processed_folder.Row(index, name, "", "train", 2000, seconds, len(sound), len(order), "", ""))
        processed_folder.write_recording(folder, rows[-1], np.rint(sound * (FULL_SCALE - 1)).astype(np.int16), labelled)
    processed_folder.finish_folder(folder, rows)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's piano with true labels, with labels that are off, and the config that is measured from these."""
    folder = tmp_path_factory.mktemp("demo")
    demo_folder(folder / "true", folder, 0.0)
    demo_folder(folder / "off", folder, 0.005)
    measure(folder / "off", folder / "measured.json")
    return folder


def test_onsets_of_the_demo_piano_are_recovered(demo, tmp_path, capsys):
    assert align(demo / "off", demo / "measured.json", tmp_path / "aligned") == 0
    assert "is it the MIDI" not in capsys.readouterr().err
    before, after = (np.abs(errors_of(folder, demo / "true")) for folder in (demo / "off", tmp_path / "aligned"))
    assert (before < 1e-4).mean() < 0.1
    assert (after < 1e-4).mean() > 0.8


def test_a_mismatched_recording_keeps_its_labels(demo, tmp_path, capsys):
    """A recording with the notes of another one is named, and keeps its labels, whatever their lag seems to be."""
    shutil.copytree(demo / "off", tmp_path / "mixed")
    folder = ProcessedFolder(demo / "off")
    processed_folder.write_recording(tmp_path / "mixed", folder.rows[2], np.array(folder.pcm(2)), folder.performance(3))
    processed_folder.finish_folder(tmp_path / "mixed", folder.rows)
    assert align(tmp_path / "mixed", demo / "measured.json", tmp_path / "aligned") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "is it the MIDI of this recording" in line]
    assert len(warnings) == 1 and warnings[0].startswith("2.wav: ") and "of its notes fit" in warnings[0]
    unchanged = ProcessedFolder(tmp_path / "aligned").performance(2)
    np.testing.assert_array_equal(unchanged.onset, folder.performance(3).onset)


def test_short_recordings_use_the_lag_that_is_given(demo, tmp_path, monkeypatch, capsys):
    early_seconds = 0.03
    opened = ProcessedFolder(demo / "off")
    shutil.copytree(demo / "off", tmp_path / "early")
    for position, row in enumerate(opened.rows):
        notes = opened.performance(position)
        early = replace(notes, onset=notes.onset - early_seconds, offset=notes.offset - early_seconds)
        processed_folder.write_recording(tmp_path / "early", row, np.array(opened.pcm(position)), early)
    processed_folder.finish_folder(tmp_path / "early", opened.rows)
    monkeypatch.setattr(label_alignment, "trusted_seconds", lambda _: None)
    data = load_config(demo / "measured.json", ("data_config",)).data_config
    for name, lag in (("with", early_seconds + FLUX_LAG_SECONDS), ("without", None)):
        align_folder(tmp_path / "early", tmp_path / name, data, like=None, source="it", fallback_lag=lag)
        assert ("the lag of its sound is unknown" in capsys.readouterr().err) == (lag is None)
    true = onsets(demo / "true")[0]
    assert (np.abs(errors_of(tmp_path / "with", demo / "true")) < 1e-4).mean() > 0.8
    assert np.median(onsets(tmp_path / "with")[0] - true) == pytest.approx(0, abs=0.003)
    assert np.median(onsets(tmp_path / "without")[0] - true) < -0.01


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder whose labels are up to 10 ms early, the same with true labels, aligned, and its measured config."""
    folder = tmp_path_factory.mktemp("align")
    write_partials_folder(folder / "true")
    write_partials_folder(folder / "off", max_label_error=0.01)
    config = measure(folder / "off", folder / "measured.json")
    assert align(folder / "off", config, folder / "aligned") == 0
    return folder


def test_aligned_labels_have_coherent_phases(pipeline):
    data = json.loads(measure(pipeline / "aligned", pipeline / "again.json").read_text())["data_config"]
    coherent = [
        np.count_nonzero(json.loads((pipeline / name).read_text())["data_config"]["partial_phase"])
        for name in ("measured.json", "again.json")
    ]
    assert coherent[0] < 40 and coherent[1] >= 8 * 7  # eight keys of eight partials
    assert len(data["partial_phase"]) == 88 * len(PARTIAL_CHANNEL)
    assert (np.abs(errors_of(pipeline / "aligned", pipeline / "true")) < 1e-4).mean() > 0.9


def test_nothing_else_changes(pipeline):
    before, after = ProcessedFolder(pipeline / "off"), ProcessedFolder(pipeline / "aligned")
    assert before.rows == after.rows
    for i in range(len(before.rows)):
        np.testing.assert_array_equal(before.pcm(i), after.pcm(i))
        old, new = before.performance(i), after.performance(i)
        np.testing.assert_array_equal(old.velocity, new.velocity)
        np.testing.assert_allclose(new.offset - new.onset, old.offset - old.onset, atol=1e-9)


def test_like_gives_recordings_the_same_reference_times(pipeline, tmp_path):
    """--like: the reference times of keys come from the first folder, so that keys have no offset between the two."""
    write_partials_folder(tmp_path / "true", seed=1)
    write_partials_folder(tmp_path / "off", max_label_error=0.01, seed=1)
    assert align(tmp_path / "off", pipeline / "measured.json", tmp_path / "like", "--like", pipeline / "aligned") == 0
    offsets = []
    for ours, true in ((tmp_path / "like", tmp_path / "true"), (pipeline / "aligned", pipeline / "true")):
        (onset, pitch), (right, _) = onsets(ours), onsets(true)
        offsets.append({p: np.median((onset - right)[pitch == p]) for p in np.unique(pitch)})
        assert np.mean([abs(o - r - offsets[-1][p]) < 1e-4 for o, r, p in zip(onset, right, pitch, strict=True)]) > 0.9
    assert offsets[0].keys() == offsets[1].keys()
    assert max(abs(offsets[0][p] - offsets[1][p]) for p in offsets[0]) < 1e-4


def test_each_global_value_is_aligned_separately(tmp_path):
    """The values are in a column that the user has added to filenames.csv, which is kept."""
    write_partials_folder(tmp_path / "true", years=(2008, 2009))
    write_partials_folder(tmp_path / "off", max_label_error=0.01, years=(2008, 2009))
    path = tmp_path / "off" / "filenames.csv"
    lines = path.read_text().splitlines()
    labels = ["room", *(line.split(",")[4] for line in lines[1:])]
    path.write_text("".join(f"{line},{label}\n" for line, label in zip(lines, labels, strict=True)))
    plain, config = tmp_path / "plain.json", tmp_path / "measured.json"
    plain.write_text(json.dumps({"data_config": {"global_values": ["room=2008", "room=2009"]}}))
    measure_partials.main(["-d", str(tmp_path / "off"), "-c", str(plain), "-o", str(config)])
    assert len(json.loads(config.read_text())["data_config"]["partial_hz"]) == 2 * 88 * len(PARTIAL_CHANNEL)
    assert align(tmp_path / "off", config, tmp_path / "aligned") == 0
    assert ProcessedFolder(tmp_path / "aligned").global_labels == ProcessedFolder(tmp_path / "off").global_labels
    error = errors_of(tmp_path / "aligned", tmp_path / "true")
    before = np.abs(errors_of(tmp_path / "off", tmp_path / "true"))
    assert np.median(np.abs(error)) < 0.2 * np.median(before)


@pytest.mark.filterwarnings("error")
def test_mismatched_and_small_folders_are_refused(pipeline, tmp_path, capsys):
    """Nothing is written if hardly any note fits the partials, if keys have too few notes, or without any notes."""
    write_partials_folder(tmp_path / "aligned", seed=2)
    config, folder, mixed = pipeline / "measured.json", ProcessedFolder(pipeline / "off"), tmp_path / "mixed"
    shutil.copytree(pipeline / "off", mixed)
    for i, row in enumerate(folder.rows):  # each with another's notes
        pcm, other = np.array(folder.pcm(i)), folder.performance((i + 1) % len(folder.rows))
        processed_folder.write_recording(mixed, row, pcm, replace(other, onset=other.onset + 0.2))
    processed_folder.finish_folder(mixed, folder.rows)
    with pytest.raises(InputError, match=r"only \d+ % of the notes fit the partials, nothing is written"):
        align(mixed, config, tmp_path / "out", "--like", pipeline / "aligned")
    assert capsys.readouterr().err.count("is it the MIDI of this recording") == len(folder.rows)
    for i, row in enumerate(folder.rows):
        few = empty_performance() if i else first_notes(folder.performance(0), 5)
        processed_folder.write_recording(mixed, row, np.array(folder.pcm(i)), few)
    processed_folder.finish_folder(mixed, folder.rows)
    with pytest.raises(InputError, match="too small to be aligned"):
        align(mixed, config, tmp_path / "out")
    processed_folder.write_recording(mixed, folder.rows[0], np.array(folder.pcm(0)), empty_performance())
    processed_folder.finish_folder(mixed, folder.rows)
    with pytest.raises(InputError, match="has no notes"):
        align(mixed, config, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder_lock.LOCK_NAME]


def test_foreign_folders_stay_and_interrupted_runs_continue(pipeline, tmp_path, monkeypatch):
    """Folders of other commands are never overwritten; the same command continues an interrupted run."""
    config, out = pipeline / "measured.json", tmp_path / "out"
    with pytest.raises(InputError, match="was made by another command"):
        align(pipeline / "off", config, pipeline / "true", "--force")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="this command did not make it"):
        align(pipeline / "off", config, tmp_path / "foreign", "--force")
    assert ProcessedFolder(pipeline / "true").rows and (tmp_path / "foreign" / "letter.txt").exists()
    write, written = label_alignment.write_recording, []
    refined = onsets_as_written(pipeline / "aligned"), np.full(300, 3.0)
    monkeypatch.setattr(label_alignment, "refine_onsets", lambda *_: refined)

    def interrupted(*args):
        written.append(args)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(label_alignment, "write_recording", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(pipeline / "off", config, out)
    assert not (out / "filenames.csv").exists()
    with pytest.raises(InputError, match="holds results of another config"):
        align(pipeline / "off", config, out, "--set", "data_config.preemphasis=0.5")
    with folder_lock.lock_folder(out), pytest.raises(InputError, match="another run is working"):
        align(pipeline / "off", config, out)
    assert align(pipeline / "off", config, out) == 0
    assert ProcessedFolder(out).made_from == ProcessedFolder(pipeline / "aligned").made_from
    for path in (pipeline / "aligned").glob("[0-9]*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_facts_are_those_of_the_new_labels(pipeline, tmp_path):
    """Warnings about the old labels' lag disappear; damaged facts are reported before any work."""
    data, folder = tmp_path / "late", ProcessedFolder(pipeline / "off")
    shutil.copytree(pipeline / "off", data)
    for i, row in enumerate(folder.rows):
        late = replace(folder.performance(i), onset=folder.performance(i).onset - 0.1)
        pcm = np.array(folder.pcm(i))
        warning = midi_alignment.alignment_warning(midi_alignment.measure_alignments(pcm, late, HZ))
        processed_folder.write_recording(data, row, pcm, late, {"late_ms": [100.0], "warnings": ["x", warning]})
    processed_folder.finish_folder(data, folder.rows)
    assert align(data, pipeline / "measured.json", tmp_path / "out") == 0
    facts = ProcessedFolder(tmp_path / "out").facts(0)
    assert facts["warnings"] == ["x"] and abs(facts["late_ms"][0]) < 30
    (data / "4.json").write_text("{}")
    with pytest.raises(InputError, match=r"4\.json is damaged"):
        align(data, pipeline / "measured.json", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_mistakes_are_reported(pipeline, tmp_path):
    config = pipeline / "measured.json"
    with pytest.raises(InputError, match="is there already; choose another name, or use --force"):
        align(pipeline / "off", config, pipeline / "aligned")
    with pytest.raises(InputError, match="is what is to be read"):
        align(pipeline / "off", config, pipeline / "off", "--force")
    with pytest.raises(InputError, match="is not aligned; align it first"):
        align(pipeline / "off", config, tmp_path / "out", "--like", pipeline / "true")
    with pytest.raises(InputError, match=r"run measure_partials\.py first"):
        align(pipeline / "off", config.with_suffix(".plain"), tmp_path / "out")
    with pytest.raises(InputError, match=r"16000 Hz, but data_config\.audio_hz = 8000"):
        align(pipeline / "off", config, tmp_path / "out", "--set", "data_config.audio_hz=8000")
    assert not (tmp_path / "out").exists()
