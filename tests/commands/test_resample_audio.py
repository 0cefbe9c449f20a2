"""resample_audio.py as its users run it: exit codes, resuming, files that are never overwritten, messages."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import resample_audio
from midi2wave.audio import io as audio_io
from midi2wave.data import maestro
from midi2wave.utils.errors import InputError
from tests.helpers.paths import DISKLAVIER, ROOT


def sound(path: Path, source_hz: int = 44100, channels: int = 2, seconds: float = 0.2, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.4, 0.4, (int(source_hz * seconds), channels))
    soundfile.write(path, samples, source_hz, **options)
    return path


def maestro_folder(folder: Path) -> Path:
    lines = [",".join(maestro.COLUMNS)]
    for number, split in enumerate(["train", "train", "test"]):
        sound(folder / f"2004/{number}.wav")
        lines.append(f"Chopin,Étude,{split},2004,2004/{number}.midi,2004/{number}.wav,0.2")
    (folder / "maestro-v2.0.0.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def outputs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*_16000.wav"))


def result_of(capsys, *arguments: str | Path) -> tuple[int, dict]:
    capsys.readouterr()
    code = resample_audio.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def command(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "resample_audio.py", *arguments], capture_output=True, text=True, check=False
    )


def test_any_folder_becomes_mono_at_16_khz(tmp_path, capsys):
    sound(tmp_path / "in/a.wav")
    sound(tmp_path / "in/deep/Prélude №1 月光.flac", 48000, 1)
    sound(tmp_path / "in/deep/c.WAV", 16000, 1)
    sound(tmp_path / "in/d.aiff", 96000, 2, subtype="PCM_24")
    (tmp_path / "in/readme.txt").write_text("no audio")
    (tmp_path / "in/._a.wav").write_text("a macOS resource fork")
    code, result = result_of(capsys, "-d", tmp_path / "in", "--out_dir", tmp_path / "out")
    assert (code, result["files"], result["failures"]) == (0, 4, [])
    assert result["hours"] == pytest.approx(0.8 / 3600)
    names = ["a_16000.wav", "d_16000.wav", "deep/Prélude №1 月光_16000.wav", "deep/c_16000.wav"]
    assert outputs(tmp_path / "out") == names
    assert {len(audio_io.read_pcm(tmp_path / "out" / name, 16000)) for name in names} == {3200}
    assert outputs(tmp_path / "in") == []


def test_maestro_splits_and_resuming(tmp_path, capsys):
    folder = maestro_folder(tmp_path)
    sound(folder / "unlisted.wav")
    assert result_of(capsys, "-d", folder, "-s", "test")[0] == 0
    assert outputs(folder) == ["2004/2_16000.wav"]
    before = (folder / "2004/2_16000.wav").stat().st_mtime_ns

    code, result = result_of(capsys, "-d", folder)
    assert (code, result["files"], result["already_done"]) == (0, 2, 1)
    assert outputs(folder) == ["2004/0_16000.wav", "2004/1_16000.wav", "2004/2_16000.wav"]
    assert (folder / "2004/2_16000.wav").stat().st_mtime_ns == before

    code, result = result_of(capsys, "-d", folder, "--force")
    assert (code, result["files"], result["already_done"]) == (0, 3, 0)
    assert (folder / "2004/2_16000.wav").stat().st_mtime_ns != before


def test_unlisted_output_is_replaced_only_with_force(tmp_path, capsys):
    source = sound(tmp_path / "a.wav")
    target = tmp_path / "a_16000.wav"
    target.write_bytes(b"precious")
    os.utime(target, (1, 1))
    code, result = result_of(capsys, "-d", tmp_path)
    assert code == 2
    assert result["failures"][0]["item"] == "a.wav"
    assert "exists and is not what would be made here" in result["failures"][0]["reason"]
    assert target.read_bytes() == b"precious"
    assert result_of(capsys, "-d", tmp_path, "--force")[0] == 0
    assert len(audio_io.read_pcm(target, 16000)) == 3200
    assert soundfile.info(source).samplerate == 44100


@pytest.mark.parametrize("out_dir", ["in", "in/deep/mono"])
def test_other_rate_is_made_from_originals_only(tmp_path, capsys, out_dir):
    """The manifests distinguish results from originals: a recording may be called take_16000.wav by its owner."""
    for name in ("a", "deep/b"):
        sound(tmp_path / f"in/{name}.wav")
    arguments = ("-d", tmp_path / "in", "--out_dir", tmp_path / out_dir)
    assert result_of(capsys, *arguments)[1]["files"] == 2
    sound(tmp_path / "in/take_16000.wav")
    assert resample_audio.main([*map(str, arguments), "--hz", "22050"]) == 0
    assert "left out: 2 files made here at another rate" in capsys.readouterr().err
    made = [path.relative_to(tmp_path / out_dir).as_posix() for path in (tmp_path / out_dir).rglob("*_22050.wav")]
    assert sorted(made) == ["a_22050.wav", "deep/b_22050.wav", "take_16000_22050.wav"]
    code, result = result_of(capsys, *arguments)
    assert (code, result["files"], result["already_done"]) == (0, 0, 2)


def test_results_without_originals_are_sources(tmp_path, capsys):
    sound(tmp_path / "in/a.wav")
    assert result_of(capsys, "-d", tmp_path / "in", "--out_dir", tmp_path / "mono")[0] == 0
    assert result_of(capsys, "-d", tmp_path / "mono", "--hz", "8000")[1]["files"] == 1
    assert (tmp_path / "mono/a_16000_8000.wav").is_file()


def change(path: Path) -> None:
    sound(path, seconds=0.1 + soundfile.info(path).duration)


def test_manifest_of_an_older_shard_is_harmless(tmp_path, capsys):
    for name in ("a", "b"):
        sound(tmp_path / f"{name}.wav")
    for shard in ("1/2", "2/2"):
        assert result_of(capsys, "-d", tmp_path, "--shard", shard)[0] == 0
    change(tmp_path / "a.wav")
    assert result_of(capsys, "-d", tmp_path)[1]["files"] == 1
    for arguments in (["--shard", "1/2"], ["--verify"], []):
        code, result = result_of(capsys, "-d", tmp_path, *arguments)
        assert (code, result["files"], result["already_done"]) == (0, 0, 1 if "--shard" in arguments else 2)


def test_force_changes_the_resampler_after_shards(tmp_path, capsys):
    """What was made with which one is known output by output, so that old shards bind nobody."""
    for name in ("a", "b"):
        sound(tmp_path / f"{name}.wav")
        assert result_of(capsys, "-d", tmp_path, "--shard", "1/1")[0] == 0
    with pytest.raises(InputError, match=r"made with -r soxr_hq .*--force"):
        resample_audio.main(["-d", str(tmp_path), "-r", "soxr_mq", "--shard", "2/2"])
    assert result_of(capsys, "-d", tmp_path, "-r", "soxr_mq", "--force")[1]["files"] == 2
    for arguments in ([], ["--verify"], ["--shard", "1/1"]):
        code, result = result_of(capsys, "-d", tmp_path, "-r", "soxr_mq", *arguments)
        assert (code, result["already_done"]) == (0, 2)
    with pytest.raises(InputError, match=r"made with -r soxr_mq .*--force"):
        resample_audio.main(["-d", str(tmp_path)])


def test_kill_between_output_and_manifest_entry(tmp_path, capsys):
    """A changed source was made again, but the manifest still tells of what was there before."""
    source = sound(tmp_path / "a.wav")
    assert result_of(capsys, "-d", tmp_path)[0] == 0
    record = (tmp_path / "resampled_16000.json").read_bytes()
    change(source)
    os.utime(source, ns=(time.time_ns() + 10**12,) * 2)  # the clock of another machine
    assert result_of(capsys, "-d", tmp_path)[0] == 0
    whole, output = (tmp_path / "resampled_16000.json").read_bytes(), (tmp_path / "a_16000.wav").read_bytes()
    (tmp_path / "resampled_16000.json").write_bytes(record)
    assert result_of(capsys, "-d", tmp_path)[0] == 0
    assert (tmp_path / "resampled_16000.json").read_bytes() == whole
    assert (tmp_path / "a_16000.wav").read_bytes() == output


def test_edited_result_is_not_replaced(tmp_path, capsys):
    source = sound(tmp_path / "a.wav")
    assert result_of(capsys, "-d", tmp_path)[0] == 0
    output = tmp_path / "a_16000.wav"
    edited = output.read_bytes()[:-2] + b"??"
    output.write_bytes(edited)
    change(source)
    code, result = result_of(capsys, "-d", tmp_path)
    assert code == 2 and "is not what would be made here" in result["failures"][0]["reason"]
    assert output.read_bytes() == edited


def test_one_bad_file_does_not_stop_the_others(tmp_path, capsys):
    sound(tmp_path / "good.wav")
    (tmp_path / "empty.wav").touch()
    cut = sound(tmp_path / "cut.wav")
    cut.write_bytes(cut.read_bytes()[:2000])
    code, result = result_of(capsys, "-d", tmp_path)
    assert (code, result["files"]) == (1, 1)
    assert [failure["item"] for failure in result["failures"]] == ["cut.wav", "empty.wav"]
    assert outputs(tmp_path) == ["good_16000.wav"]
    code, result = result_of(capsys, "-d", tmp_path)
    assert (code, result["files"], result["already_done"]) == (1, 0, 1)


def test_headers_that_are_wrong_and_other_scales(tmp_path, capsys):
    """What the size of the file corrects is read, with a remark; the rest are failures, and the others are done."""
    whole = sound(tmp_path / "in/whole.wav", 16000, 1).read_bytes()
    (tmp_path / "in/unfinished.wav").write_bytes(whole[:40] + bytes(4) + whole[44:])
    (tmp_path / "in/joined.wav").write_bytes(whole + whole)
    piped = bytearray(sound(tmp_path / "in/piped.flac", 16000, 1).read_bytes())
    piped[21:26] = bytes([piped[21] & 0xF0, 0, 0, 0, 0])
    (tmp_path / "in/piped.flac").write_bytes(piped)
    samples = np.random.default_rng(0).integers(-9833, 9834, 16000).astype(np.float32)
    soundfile.write(tmp_path / "in/scaled.wav", samples, 16000, subtype="FLOAT")
    code = resample_audio.main(["-d", str(tmp_path / "in"), "--json"])
    said = capsys.readouterr()
    result = json.loads(said.out)
    reasons = {failure["item"]: failure["reason"] for failure in result["failures"]}
    assert code == 1 and result["files"] == 3 and reasons.keys() == {"joined.wav", "scaled.wav"}
    assert "another file, RIFF" in reasons["joined.wav"] and "divide by 32768" in reasons["scaled.wav"]
    assert "unfinished.wav: its header states 0 bytes of samples, the file holds 6400" in said.err
    true = audio_io.read_pcm(tmp_path / "in/whole_16000.wav", 16000)
    for name in ("unfinished", "piped"):
        pcm = audio_io.read_pcm(tmp_path / f"in/{name}_16000.wav", 16000)
        assert np.abs(pcm.astype(int) - true).max() <= (name == "piped")  # libsndfile rounds otherwise there.


def test_missing_recordings_are_failures(tmp_path, capsys):
    folder = maestro_folder(tmp_path)
    (folder / "2004/1.wav").unlink()
    code, result = result_of(capsys, "-d", folder)
    assert (code, result["files"]) == (1, 2)
    assert result["failures"][0]["item"] == "2004/1.wav"
    assert result["failures"][0]["reason"].startswith("no such file in")


def test_metadata_cannot_lead_out_of_the_folder(tmp_path, capsys):
    folder = maestro_folder(tmp_path / "in")
    sound(tmp_path / "secret.wav")
    metadata = folder / "maestro-v2.0.0.csv"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("2004/1.wav", "../secret.wav"), encoding="utf-8")
    code, result = result_of(capsys, "-d", folder)
    assert code == 1
    assert "does not name a file inside" in result["failures"][0]["reason"]
    assert outputs(tmp_path) == ["in/2004/0_16000.wav", "in/2004/2_16000.wav"]


def test_originals_are_never_overwritten(tmp_path, capsys):
    """Two originals with one output, and an original that bears the name of an output."""
    sound(tmp_path / "same/a.flac")
    sound(tmp_path / "same/a.wav")
    code, result = result_of(capsys, "-d", tmp_path / "same")
    assert code == 1
    assert "would give the same a_16000.wav as a.flac" in result["failures"][0]["reason"]

    folder = maestro_folder(tmp_path / "in")
    metadata = folder / "maestro-v2.0.0.csv"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("4/1.wav", "4/0_16000.wav"), encoding="utf-8")
    original = sound(folder / "2004/0_16000.wav").read_bytes()
    code, result = result_of(capsys, "-d", folder, "--force")
    assert (code, result["failures"][0]["item"]) == (1, "2004/0.wav")
    assert (folder / "2004/0_16000.wav").read_bytes() == original


def test_clipping_is_reported(tmp_path, capsys):
    soundfile.write(tmp_path / "loud.wav", [0.5, 1.25, -1.25], 16000, subtype="FLOAT")
    assert resample_audio.main(["-d", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "clipped: loud.wav: 2 samples above full scale (peak 1.250)" in printed.err
    assert "1 clipped (2 samples)" in printed.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-s", "test"], "so it has no test split"),
        (["--hz", "16"], "--hz is 16, expected 1000 to 384000"),
        (["-j", "0"], "--jobs is 0, expected 1 or more"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, words):
    sound(tmp_path / "a.wav")
    with pytest.raises(InputError, match=words):
        resample_audio.main(["-d", str(tmp_path), *arguments])


def test_folders_without_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        resample_audio.main(["-d", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="holds no audio files; looked for"):
        resample_audio.main(["-d", str(tmp_path)])
    sound(tmp_path / "a_16000.wav")
    with pytest.raises(InputError, match="no audio files but 1 that end in _16000"):
        resample_audio.main(["-d", str(tmp_path)])
    with pytest.raises(InputError, match="no recordings of the validation split"):
        resample_audio.main(["-d", str(maestro_folder(tmp_path)), "-s", "validation"])


def test_command_in_parallel_with_another_rate_and_resampler(tmp_path):
    for number in range(3):
        sound(tmp_path / f"{number}.wav")
    (tmp_path / "bad.wav").touch()
    done = command("-d", tmp_path, "--hz", "8000", "-r", "soxr_vhq", "-j", "2")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("3 files, 0.00 h, resampled to 8000 Hz in ")
    assert "failed: bad.wav: " in done.stderr
    assert "1 of 4 items failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(audio_io.read_pcm(tmp_path / "2_8000.wav", 8000)) == 1600


def test_command_on_an_empty_folder(tmp_path):
    done = command("-d", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not DISKLAVIER.is_dir(), reason="no ../shared/data/disklavier-maestro-layout on this machine")
def test_real_recordings(tmp_path, capsys):
    code, result = result_of(capsys, "-d", DISKLAVIER, "--out_dir", tmp_path, "-s", "test")
    assert (code, result["files"]) == (0, 4)
    for recording in maestro.select_split(maestro.read_metadata(DISKLAVIER), "test"):
        pcm = audio_io.read_pcm(tmp_path / maestro.resampled_name(recording.audio_filename, 16000), 16000)
        original = soundfile.read(DISKLAVIER / recording.audio_filename, dtype="int16")[0]
        assert np.array_equal(pcm, original)  # these are mono at 16 kHz already
