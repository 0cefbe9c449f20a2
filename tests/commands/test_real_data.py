"""The pipeline's first commands on real recordings, where these lie beside the checkout; skipped elsewhere."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import preprocess_audio
import preprocess_maestro
import resample_audio
from midi2wave.data.maestro import read_metadata, select_split
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.data.test_clips import clip_paths, read_clip
from tests.helpers.paths import DATA, DISKLAVIER, MAESTRO_CLIP


@pytest.fixture
def need():
    def check(folder):
        if not folder.is_dir():
            pytest.skip(f"the real recordings of {folder.name} are not here")

    return check


def settings(**values):
    return [f"--set=preprocess_config.{key}={value}" for key, value in values.items()]


def test_stereo_recording_with_a_longer_midi(tmp_path, need, capsys):
    """48 kHz stereo; the MIDI lasts 700 s longer than the audio."""
    need(MAESTRO_CLIP)
    folder = tmp_path / "maestro"
    shutil.copytree(MAESTRO_CLIP, folder / "2018")
    wav, midi = next(folder.rglob("*.wav")), next(folder.rglob("*.midi"))
    with open(DATA / "maestro-metadata" / "maestro-v2.0.0.csv", encoding="utf-8", newline="") as handle:
        row = next(row for row in csv.DictReader(handle) if row["audio_filename"].endswith(wav.name))
    with open(folder / "maestro-v2.0.0.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(row))
        writer.writeheader()
        writer.writerow(row)
    assert midi.name == Path(row["midi_filename"]).name
    assert resample_audio.main(["-d", str(folder)]) == 0
    out = tmp_path / "out"
    assert preprocess_maestro.main(settings(maestro_dir=folder, out_dir=out, split=row["split"])) == 0
    assert "of its notes begin after the audio's end at 2.0 s" in capsys.readouterr().err
    processed = ProcessedFolder(out)
    assert processed.rows[0].n_samples == 32000 and 0 < processed.rows[0].n_notes < 100
    assert 300 < np.abs(processed.pcm(0)).max() < 32768
    assert len(processed.performance(0).onset) > 4000  # events are kept whole


def test_recordings_with_the_pedal_on_one_track_only(tmp_path, need):
    need(DISKLAVIER)
    rows = select_split(read_metadata(DISKLAVIER), "validation")
    assert resample_audio.main(["-d", str(DISKLAVIER), "--out_dir", str(tmp_path / "audio"), "-s", "validation"]) == 0
    common = {"maestro_dir": DISKLAVIER, "resampled_dir": tmp_path / "audio", "split": "validation"}
    assert preprocess_maestro.main(settings(**common, out_dir=tmp_path / "out")) == 0
    processed = ProcessedFolder(tmp_path / "out")
    assert [row.duration for row in processed.rows] == pytest.approx([row.duration for row in rows], abs=0.01)
    sustain = [len(processed.performance(i).pedals[64]) for i in range(len(rows))]
    assert max(sustain) > 50
    test_config = ["-d", str(tmp_path / "test"), "-c", "config_makeTest.json", *settings(**common, n_clips=3)]
    assert preprocess_audio.main(test_config) == 0
    clips = [read_clip(path, 16000) for path in clip_paths(tmp_path / "test")]
    assert [len(clip.pcm) for clip in clips] == [64000] * 3
    for clip in clips:  # there is something to play after the first two seconds
        onset = clip.performance.onset
        assert ((onset > 2) & (onset < 4)).any()
