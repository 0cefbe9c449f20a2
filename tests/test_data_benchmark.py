"""The benchmark of the data road runs and says what it promises; its numbers are no test's business."""

import json
import sys

from benchmarks import data, full_size

KEYS = [
    "resample_realtime_per_core", "resample_vs_earlier", "resample_peak_mb", "parallel_efficiency",
    "preprocess_realtime", "crops_per_second", "features_ms_per_second", "hours_200_resample", "hours_200_preprocess",
]  # fmt: skip


def test_the_benchmark_gives_its_nine_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "FILE_SECONDS", 60)
    monkeypatch.setattr(data, "N_FILES", 2)
    monkeypatch.setattr(data, "disk_rates", lambda folder: (500.0, 500.0))
    monkeypatch.setattr(data, "peak_megabytes", lambda folder: 45.0)
    monkeypatch.setattr(data, "yardsticks", lambda paths, folder: {"ours": 2000.0})
    monkeypatch.setattr(sys, "argv", ["benchmarks.data", "--json", "--dir", str(tmp_path)])
    data.main()
    numbers = json.loads(capsys.readouterr().out)
    assert list(numbers) == KEYS
    assert numbers.pop("resample_vs_earlier") is None  # nothing to compare with
    assert all(value > 0 for value in numbers.values())
    assert not any(tmp_path.iterdir())


def test_the_full_shape_in_small(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_size, "COUNTS", {"train": 4, "validation": 2, "test": 1})
    arguments = ["--sparse_hours", "0.2", "-j", "1", "--dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.full_size", *arguments])
    full_size.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "resample_audio.py -j 1", "preprocess_maestro.py -j 1", lines[2].split(":")[0],
        "3,000 crops of 0.5 s from all over", "resample_audio.py -j 1"]  # fmt: skip
    assert "7 recordings of 1 s" in lines[0] and "7 recordings of 1 s" in lines[1]
    assert not any(tmp_path.iterdir())


def test_the_made_metadata_has_the_shape_of_version_3():
    rows = full_size.made_metadata()
    hours = sum(float(row["duration"]) for row in rows) / 3600
    assert len(rows) == 1276 and 180 < hours < 230
    assert len({row["audio_filename"] for row in rows}) == 1276
