"""Names of results that are not too long for a file system."""

import os

import pytest

from midi2wave.data.maestro import resampled_name
from midi2wave.utils.atomic_files import atomic_file, remove_partial_files
from midi2wave.utils.file_names import MAX_NAME_BYTES, MAX_STEM_BYTES, fit_name, fit_stem

KANA = "エリーゼのために" * 9  # 72 characters of three bytes


def test_short_names_stay():
    for stem in ("", "a", "x" * 251, KANA, "\udcff" * 251, "\ud800" * 300):
        assert fit_name(stem, ".wav") == stem + ".wav"
    assert fit_stem(KANA) == KANA


@pytest.mark.parametrize("stem", ["x" * 252, KANA + "ピアノ" * 9, "é" * 200, "𝄞" * 64, "\udcff" * 252])
def test_long_names_fit_and_stay_different(stem):
    name = fit_name(stem, "_16000.wav")
    assert MAX_NAME_BYTES - 4 < len(os.fsencode(name)) <= MAX_NAME_BYTES
    assert name.endswith("_16000.wav") and name.startswith(stem[:50])
    assert name != fit_name(stem + "2", "_16000.wav")
    assert name == fit_name(stem, "_16000.wav")
    assert len(os.fsencode(fit_stem(stem))) <= MAX_STEM_BYTES


def test_resampled_names_fit():
    assert resampled_name("2008/" + "x" * 251 + ".wav", 16000) == "2008/" + fit_name("x" * 251, "_16000.wav")


def test_files_of_the_longest_names_are_written(tmp_path):
    path = tmp_path / fit_name(KANA * 2, ".wav")
    with atomic_file(path) as tmp:
        tmp.write_bytes(b"sound")
        left = tmp.name
    assert path.read_bytes() == b"sound"
    (tmp_path / left).write_bytes(b"half")
    remove_partial_files(tmp_path, {path.name[:-1]})
    assert (tmp_path / left).is_file()
    remove_partial_files(tmp_path, {path.name})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
