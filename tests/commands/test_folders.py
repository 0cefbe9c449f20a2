"""What the commands find in folders: links, formats that are recognised, metadata that lie elsewhere."""

import shutil

import pytest

import inference
import preprocess_audio
import preprocess_maestro
import resample_audio
from midi2wave.data import rendering
from midi2wave.data.maestro import read_metadata
from midi2wave.utils.errors import InputError
from tests.helpers.pipeline import (
    assert_refused,
    call,
    melody,
    read_files,
    settings,
    write_audio,
    write_config,
    write_maestro,
    write_midi,
)


@pytest.fixture
def linked(tmp_path):
    """A folder in which all recordings lie behind links to folders, one of which is a circle."""
    for number, name in enumerate(("a", "b")):
        write_audio(tmp_path / f"disk/{name}/{name}.wav", melody(number))
        write_midi(tmp_path / f"disk/{name}/{name}.mid", melody(number))
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"in/{name}").symlink_to(tmp_path / f"disk/{name}")
    (tmp_path / "disk/b/circle").symlink_to(tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.links
def test_linked_folders_are_resampled(linked, tmp_path):
    done = call(resample_audio, "-d", linked, "--hz", "8000", "--out_dir", tmp_path / "out", "--json")
    assert (done.code, done.result["files"]) == (0, 2)
    assert sorted(name for name in read_files(tmp_path / "out") if name.endswith(".wav")) == [
        "a/a_8000.wav",
        "b/b_8000.wav",
    ]


@pytest.mark.links
def test_linked_folders_give_clips_and_pieces(pipeline, linked, tmp_path):
    options = settings("preprocess_config.maestro_dir=", f"preprocess_config.audio_dir={linked}")
    clips = call(preprocess_audio, "-d", tmp_path / "clips", "-c", write_config(tmp_path), "--json", *options)
    assert clips.code == 0 and {name.split("_")[2] for name in clips.result["clips"]} == {"a", "b"}
    jobs, failures = rendering.plan_jobs(linked, 0, {})
    assert ([job.source.name for job in jobs], failures) == (["a.mid", "b.mid"], [])
    for path in linked.parent.glob("disk/*/*.mid"):
        write_midi(path, melody(0, 0.1))
    played = call(inference, "-c", pipeline.config, "--midi", linked, "--out", tmp_path / "out", "--json")
    assert (played.code, played.result["wavs"]) == (0, ["a.wav", "b.wav"])


def test_audio_that_is_not_read_is_named(tmp_path):
    folder = tmp_path / "in"
    write_audio(folder / "a.wav", melody(0))
    write_midi(folder / "b.mid", melody(0))
    for name in ("b.m4a", "deep/c.WEBM", "d.aac", "e.wma", ".f.m4a"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    done = call(resample_audio, "-d", folder, "--hz", "8000", "--json")
    assert (done.code, done.result["files"]) == (0, 1)
    assert done.result["left_out"] == ["b.m4a", "d.aac", "deep/c.WEBM", "e.wma"]
    line = "left out: 4 files of audio that libsndfile does not read (1 .aac, 1 .m4a, 1 .webm, 1 .wma): b.m4a, d.aac"
    assert line in done.err and "ffmpeg" in done.err
    options = settings("preprocess_config.maestro_dir=", f"preprocess_config.audio_dir={folder}")
    clips = call(preprocess_audio, "-d", tmp_path / "clips", "-c", write_config(tmp_path), *options)
    assert line in clips.err and clips.code == 2
    for path in folder.glob("a*.wav"):
        path.unlink()
    assert_refused(call(resample_audio, "-d", folder, "--hz", "4000"), "holds no audio files")


@pytest.mark.links
def test_dead_links_are_failures(tmp_path):
    write_audio(tmp_path / "in/a.wav", melody(0))
    write_midi(tmp_path / "in/a.mid", melody(0))
    for name in ("b.wav", "c.mid", "2008"):
        (tmp_path / "in" / name).symlink_to(f"/no/disk/{name}")
    done = call(resample_audio, "-d", tmp_path / "in", "--hz", "8000", "--json")
    assert (done.code, done.result["files"]) == (1, 1)
    assert [failure["item"] for failure in done.result["failures"]] == ["2008", "b.wav"]
    jobs, failures = rendering.plan_jobs(tmp_path / "in", 0, {})
    assert len(jobs) == 1 and [failure.item for failure in failures] == ["2008", "c.mid"]


def test_other_suffixes_of_midi_are_read(pipeline, tmp_path):
    source = write_midi(tmp_path / "a.mid", melody(0, 0.1))
    wrapped = b"RIFF" + (len(source.read_bytes()) + 12).to_bytes(4, "little") + b"RMIDdata"
    size = source.stat().st_size.to_bytes(4, "little")
    (tmp_path / "in").mkdir()
    shutil.copy(source, tmp_path / "in/b.kar")
    (tmp_path / "in/c.RMI").write_bytes(wrapped + size + source.read_bytes())
    (tmp_path / "in/d.musicxml").touch()
    played = call(inference, "-c", pipeline.config, "--midi", tmp_path / "in", "--out", tmp_path / "out", "--json")
    assert (played.code, played.result["wavs"]) == (0, ["b.wav", "c.wav"])
    assert "1 .musicxml" in played.err
    jobs, failures = rendering.plan_jobs(tmp_path / "in", 0, {})
    assert ([job.source.name for job in jobs], failures) == (["b.kar", "c.RMI"], [])
    for name in ("b", "c"):
        write_audio(tmp_path / f"in/{name}.wav", melody(0))
    options = settings("preprocess_config.maestro_dir=", f"preprocess_config.audio_dir={tmp_path}/in")
    clips = call(preprocess_audio, "-d", tmp_path / "clips", "-c", write_config(tmp_path), "--json", *options)
    assert {name.split("_")[2] for name in clips.result["clips"]} == {"b", "c"}
    assert "1 .musicxml" in clips.err


def test_names_like_those_of_drives(tmp_path):
    write_audio(tmp_path / "in/I: Allegro.wav", melody(0))
    write_audio(tmp_path / "in/C:\\b.wav", melody(0))
    done = call(resample_audio, "-d", tmp_path / "in", "--hz", "8000", "--json")
    assert (done.code, done.result["files"], done.result["failures"]) == (0, 2, [])
    assert (tmp_path / "in/I: Allegro_8000.wav").is_file()


@pytest.mark.parametrize("depth", ["maestro-v3.0.0", "download/maestro-v3.0.0"])
def test_metadata_in_a_folder_below_are_named(tmp_path, depth):
    maestro = write_maestro(tmp_path / "in" / depth, ["train"])
    config = write_config(tmp_path)
    before = read_files(tmp_path / "in")
    for arguments in ([], ["-s", "train"]):
        assert_refused(call(resample_audio, "-d", tmp_path / "in", *arguments), str(maestro), "name ")
    directory = settings(f"preprocess_config.maestro_dir={tmp_path}/in")
    assert_refused(call(preprocess_maestro, "-c", config, *directory), str(maestro), "name that folder")
    assert_refused(call(preprocess_audio, "-d", tmp_path / "clips", "-c", config, *directory), str(maestro))
    with pytest.raises(InputError, match="they are in"):
        rendering.plan_jobs(tmp_path / "in", 0, {})
    assert_refused(
        call(preprocess_maestro, "-c", config, *settings(f"preprocess_config.maestro_dir={maestro}/2004")), str(maestro)
    )
    assert read_files(tmp_path / "in") == before


def test_backslashes_in_metadata_are_read(tmp_path):
    maestro = write_maestro(tmp_path / "maestro", ["train", "train"])
    path = maestro / "maestro-v2.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("2004/", "2004\\"), encoding="utf-8")
    assert [recording.midi_filename for recording in read_metadata(maestro)] == ["2004/0.midi", "2004/1.midi"]
    done = call(preprocess_maestro, "-c", write_config(tmp_path), "--json")
    assert (done.code, done.result["recordings"]) == (0, 2)
    assert [job.source.is_file() for job in rendering.plan_jobs(maestro, 0, {})[0]] == [True, True]
    shutil.copy(maestro / "2004/0.midi", maestro / "2004\\0.midi")  # Unpacked so: that is its name.
    assert [recording.midi_filename for recording in read_metadata(maestro)] == ["2004\\0.midi", "2004/1.midi"]


def test_one_impossible_name_leaves_the_others(tmp_path):
    maestro = write_maestro(tmp_path / "maestro", ["train", "train"])
    path = maestro / "maestro-v2.0.0.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("2004/0.midi", "../0.midi"), encoding="utf-8")
    jobs, failures = rendering.plan_jobs(maestro, 0, {})
    assert [job.source.name for job in jobs] == ["1.midi"] and [failure.item for failure in failures] == ["../0.midi"]
