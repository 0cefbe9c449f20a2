"""The benchmarks of data preparation run and report all their numbers; the numbers themselves are not tested."""

import importlib.util
import json
import sys

import numpy as np
import soundfile

from benchmarks import data, full_size

KEYS = [
    "resample_realtime_per_core",
    "resample_vs_earlier",
    "resample_peak_mb",
    "parallel_efficiency",
    "preprocess_realtime",
    "crops_per_second",
    "features_ms_per_second",
    "hours_200_resample",
    "hours_200_preprocess",
]


def test_data_benchmark_reports_all_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "FILE_SECONDS", 60)
    monkeypatch.setattr(data, "N_FILES", 2)
    monkeypatch.setattr(data, "disk_rates", lambda folder: (500.0, 500.0))
    monkeypatch.setattr(data, "peak_megabytes", lambda folder: 45.0)
    monkeypatch.setattr(data, "compare_resamplers", lambda paths, folder: {"ours": 2000.0})
    monkeypatch.setattr(sys, "argv", ["benchmarks.data", "--json", "--dir", str(tmp_path)])
    data.main()
    numbers = json.loads(capsys.readouterr().out)
    assert list(numbers) == KEYS
    assert numbers.pop("resample_vs_earlier") is None  # There is nothing to compare with.
    assert all(value > 0 for value in numbers.values())
    assert not any(tmp_path.iterdir())


def test_memory_and_other_resamplers(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "FILE_SECONDS", 1)
    paths = []
    for hz in (44100, 48000):
        paths.append(tmp_path / f"{hz}.wav")
        soundfile.write(paths[-1], np.random.default_rng(0).uniform(-0.1, 0.1, (hz, 2)), hz, subtype="PCM_16")
    rates = data.compare_resamplers(paths, tmp_path)
    assert rates.keys() - {"librosa kaiser_fast", "librosa soxr_hq", "sox", "ffmpeg"} == {"ours"}
    assert all(rate > 0 for rate in rates.values())
    assert ("librosa kaiser_fast" in rates) == (importlib.util.find_spec("librosa") is not None)
    assert 10 < data.peak_megabytes(tmp_path, seconds=1) < 2000
    written, read = data.disk_rates(tmp_path, megabytes=1)
    assert written > 0 and read > 0
    assert {path.name for path in tmp_path.iterdir()} == {"44100.wav", "48000.wav", "resampled.wav"}


def test_full_size_benchmark_with_few_recordings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_size, "COUNTS", {"train": 4, "validation": 2, "test": 1})
    arguments = ["--sparse_hours", "0.2", "-j", "1", "--dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.full_size", *arguments])
    full_size.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "resample_audio.py -j 1",
        "preprocess_maestro.py -j 1",
        lines[2].split(":")[0],
        "3,000 crops of 0.5 s from all over",
        "resample_audio.py -j 1",
    ]
    assert "7 recordings of 1 s" in lines[0] and "7 recordings of 1 s" in lines[1]
    assert not any(tmp_path.iterdir())


def test_synthetic_metadata_has_the_shape_of_version_3():
    rows = full_size.synthetic_metadata()
    hours = sum(float(row["duration"]) for row in rows) / 3600
    assert len(rows) == 1276 and 180 < hours < 230
    assert len({row["audio_filename"] for row in rows}) == 1276
