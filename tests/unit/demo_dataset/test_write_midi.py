"""The folder of MIDI files made by rules: what is in it, that it is never overwritten by mistake, and its splits."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from midi2wave.data.rendering import plan_jobs
from midi2wave.demo_dataset import write_midi
from midi2wave.demo_dataset.composer import compose
from midi2wave.demo_dataset.write_midi import plan_files, transposed_piece
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import read_midi
from midi2wave.utils import cli
from midi2wave.utils.errors import InputError

HOURS = 0.35  # Seven files.


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.mid"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("midi") / "folder"
    write_midi.write_folder(path, hours=HOURS, studies=0.6)
    return path


def test_files_are_read_as_they_were_made(folder: Path) -> None:
    files = plan_files(HOURS, 0, 0.6)
    assert sorted(digests(folder)) == sorted(f"{file.stem}.mid" for file in files)
    for file in files:
        made, stored = file.make(file.seed, file.seconds), read_midi(folder / f"{file.stem}.mid")
        assert stored.dropped == ()
        np.testing.assert_allclose(np.sort(stored.onset), np.sort(made.onset), atol=1e-3)
        assert np.bincount(stored.pitch).tolist() == np.bincount(made.pitch).tolist()
        assert file.seconds - 12 < stored.offset.max() < file.seconds + 0.2


def test_the_plan_has_the_hours_and_the_shares() -> None:
    files = plan_files(5.0, 2, 0.7)
    assert len(files) == 100 and sum(file.seconds for file in files) == pytest.approx(5 * 3600, abs=0.1)
    assert all(140 < file.seconds < 220 for file in files)
    names = [file.stem.split("_")[0] for file in files]
    assert [names.count(name) for name in ("study", "notes", "piece")] == [61, 9, 30]
    assert len({file.seed for file in files}) == len({file.stem for file in files}) == 100
    assert {file.seed for file in files}.isdisjoint(file.seed for file in plan_files(5.0, 3, 0.7))
    assert {file.stem.split("_")[0] for file in plan_files(1.0, 0, 0.0)} == {"piece"}
    assert {file.stem.split("_")[0] for file in plan_files(1.0, 0, 1.0)} == {"study", "notes"}


def test_pieces_are_transposed_as_a_whole() -> None:
    intervals = set()
    for seed in range(30):
        pitch = transposed_piece(seed, 6.0).pitch
        difference = pitch - Performance.from_pretty_midi(compose(seed, 6.0)).pitch
        intervals |= set(difference.tolist())
        assert len(set(difference.tolist())) == 1 and pitch.min() >= 21 and pitch.max() <= 108
    assert min(intervals) < -6 and max(intervals) > 6


def test_render_midi_splits_the_folder(folder: Path) -> None:
    jobs, failures = plan_jobs(folder, 0, {"validation": 0.06, "test": 0.1})
    splits = [job.split for job in jobs]
    assert not failures and len(jobs) == 7
    assert splits.count("validation") >= 1 and splits.count("test") >= 1 and splits.count("train") >= 4


def test_a_rerun_writes_what_is_missing(folder: Path) -> None:
    before = digests(folder)
    first, last = sorted(folder.glob("*.mid"))[:: len(before) - 1]
    written = last.stat().st_mtime_ns
    first.unlink()
    write_midi.write_folder(folder, hours=HOURS, studies=0.6)
    assert digests(folder) == before
    assert last.stat().st_mtime_ns == written


def test_only_own_files_are_replaced(tmp_path: Path) -> None:
    write_midi.write_folder(tmp_path, hours=0.01, seed=1)
    (tmp_path / "mine.mid").write_text("precious")
    before = digests(tmp_path)
    with pytest.raises(InputError, match=r"another config .*--force"):
        write_midi.write_folder(tmp_path, hours=0.01)
    assert digests(tmp_path) == before
    write_midi.write_folder(tmp_path, hours=0.01, force=True)
    assert sorted(digests(tmp_path)) == ["mine.mid", "notes_seed0_0001.mid"]
    assert (tmp_path / "mine.mid").read_text() == "precious"


def test_a_folder_of_other_files_is_always_refused(tmp_path: Path) -> None:
    (tmp_path / "notes_seed0_0001.mid").write_text("precious")
    for force in (False, True):
        with pytest.raises(InputError, match="choose another folder"):
            write_midi.write_folder(tmp_path, hours=0.01, force=force)
    assert (tmp_path / "notes_seed0_0001.mid").read_text() == "precious"


@pytest.mark.parametrize(
    "arguments", [["--hours", "0"], ["--hours", "nan"], ["--hours", "501"], ["--studies", "1.1"], ["--seed", "-1"]]
)
def test_impossible_arguments_are_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: write_midi.main(["-o", str(tmp_path / "midi"), *arguments]))
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "midi").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_midi.main(["-o", str(tmp_path / "midi"), "--hours", "0.1", "--studies", "0.5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["studies"], result["pieces"]) == (1, 1) and result["hours"] == pytest.approx(0.1, abs=1e-4)
    assert len(digests(tmp_path / "midi")) == 2
