"""What inference.py and preprocess_audio.py keep, make again and list of an output folder that has results already."""

import json
import subprocess
import sys

import pytest

import inference
import preprocess_audio
from midi2wave.sampling import render
from midi2wave.utils import folder_lock
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import (
    assert_failed,
    assert_no_partial_files,
    assert_refused,
    call,
    modification_times,
    read_files,
    settings,
    write_midi,
)

LEFTOVER = ".song.wav.4711-0123abcd.partial"


@pytest.fixture
def songs(tmp_path):
    """Two short MIDI files."""
    return [
        write_midi(tmp_path / f"{name}.mid", [(0.0, 0.01, 60 + i, 90)]) for i, name in enumerate(("prelude", "song"))
    ]


@pytest.fixture
def arguments(pipeline, tmp_path):
    return ("-c", pipeline.config, "--out", tmp_path / "out", *settings("inference_config.tail_seconds=0"))


def wavs(folder) -> set[str]:
    return {path.name for path in folder.glob("*.wav")}


def page(folder) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_force_keeps_other_pieces_and_files_of_the_user(arguments, songs, tmp_path):
    out, (prelude, song) = tmp_path / "out", songs
    assert call(inference, *arguments, "--midi", prelude).code == 0
    for name in ("my_own_recording.wav", "scan.png", "numbers.npz"):
        (out / name).write_bytes(b"mine")
    before = read_files(out)
    for extra in ((), settings("inference_config.seed=1")):
        assert call(inference, *arguments, *extra, "--midi", song, "--force").code == 0
        now = read_files(out)
        changed = {name for name in before if now[name] != before[name]}
        assert changed <= {inference.RECORD_NAME, inference.PAGE_NAME}
        assert wavs(out) == {"prelude.wav", "my_own_recording.wav", "song.wav"}
        assert [page(out).count(f"<h2>{name}</h2>") for name in ("prelude", "song", "my_own_recording")] == [1, 1, 0]
        assert ("other settings" in page(out)) == bool(extra)
    refused = call(inference, *arguments, *settings("inference_config.seed=1"), "--json", "--midi", prelude, song)
    assert_failed(refused, 1, prelude="holds prelude.wav of other settings")
    assert "--force, which makes the pieces of this call again and removes nothing else" in refused.err


def test_a_wav_of_the_user_is_not_overwritten(arguments, songs, tmp_path):
    prelude, song = songs
    assert call(inference, *arguments, "--midi", prelude).code == 0
    (tmp_path / "out/song.wav").write_bytes(b"mine")
    for force in ([], ["--force"]):
        made = call(inference, *arguments, *force, "--json", "--midi", prelude, song)
        assert_failed(made, 1, song="song.wav is there and this command did not make it")
        assert (tmp_path / "out/song.wav").read_bytes() == b"mine"


def test_second_run_on_the_folder_is_refused(arguments, songs, tmp_path):
    with folder_lock.lock_folder(tmp_path / "out"):
        assert_refused(
            call(inference, *arguments, "--midi", *songs), "another run is working on", str(tmp_path / "out")
        )
    assert wavs(tmp_path / "out") == set()
    assert call(inference, *arguments, "--midi", *songs).code == 0


def test_damaged_notes_are_written_again(arguments, songs, tmp_path):
    """They are those of the MIDI file, as the record knows."""
    out = tmp_path / "out"
    assert call(inference, *arguments, "--midi", *songs).code == 0
    before, at = read_files(out), modification_times(out)
    (out / "song.npz").write_bytes(b"damaged")
    rerun = call(inference, *arguments, "--midi", *songs)
    assert rerun.code == 0 and "2 were there already" in rerun.out and "song.npz was damaged" in rerun.err
    assert read_files(out) == before and modification_times(out)["song.wav"] == at["song.wav"]


def test_damaged_notes_of_a_former_version_stop_one_piece(arguments, songs, tmp_path):
    """Nothing but the damaged file says what notes the wav is of."""
    out = tmp_path / "out"
    assert call(inference, *arguments, "--midi", *songs).code == 0
    record = (out / "inference.json").read_text(encoding="utf-8")
    (out / "inference.json").write_text(_without_products(record), encoding="utf-8")
    (out / "song.npz").write_bytes(b"damaged")
    before = read_files(out)
    rerun = call(inference, *arguments, "--json", "--midi", *songs)
    assert_failed(rerun, 1, song="the file of its notes beside it is damaged; choose another folder, or use --force")
    assert rerun.result["wavs"] == ["prelude.wav"] and read_files(out)["song.wav"] == before["song.wav"]
    assert call(inference, *arguments, "--midi", *songs, "--force").code == 0
    assert read_files(out)["song.npz"] != b"damaged"


def _without_products(record: str) -> str:
    """A record as earlier versions wrote it."""
    stored = json.loads(record)
    del stored["products"]
    return json.dumps(stored, indent=2, sort_keys=True) + "\n"


def test_edited_midi_after_an_interrupted_first_run(arguments, songs, tmp_path, monkeypatch):
    out, song = tmp_path / "out", songs[1]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(render, "synthesize", interrupted)
        assert call(inference, *arguments, "--midi", song).code == 130
    assert (out / "song.npz").is_file() and not (out / "song.wav").exists()
    write_midi(song, [(0.0, 0.012, 50, 90)])
    assert call(inference, *arguments, "--midi", song).code == 0
    edited = read_files(out)
    write_midi(song, [(0.0, 0.012, 51, 90)])
    assert_failed(call(inference, *arguments, "--json", "--midi", song), 2, song="song.wav of other notes")
    assert read_files(out) == edited


def test_the_page_lists_all_pieces_of_the_folder(arguments, songs, tmp_path, monkeypatch):
    """Also after an interruption: what is finished can be listened to."""
    prelude, song = songs
    for midi in (prelude, song, prelude):
        assert call(inference, *arguments, "--midi", midi).code == 0
    assert page(tmp_path / "out").index("<h2>prelude</h2>") < page(tmp_path / "out").index("<h2>song</h2>")
    render_batch = render.render

    def interrupted_second(job, pieces):
        if pieces[0].name == "song":
            raise KeyboardInterrupt
        render_batch(job, pieces)

    monkeypatch.setattr(render, "render", interrupted_second)
    stopped = (*arguments[:3], tmp_path / "stopped", *arguments[4:], *settings("inference_config.batch_size=1"))
    assert call(inference, *stopped, "--midi", prelude, song).code == 130
    assert "<h2>prelude</h2>" in page(tmp_path / "stopped") and "<h2>song</h2>" not in page(tmp_path / "stopped")


def test_leftovers_of_a_killed_run_are_removed(arguments, songs, tmp_path):
    out = tmp_path / "out"
    assert call(inference, *arguments, "--midi", songs[0]).code == 0
    (out / LEFTOVER).write_bytes(b"half")
    (out / ".mine.partial").write_bytes(b"mine")
    assert call(inference, *arguments, "--midi", songs[0]).code == 0
    assert not (out / LEFTOVER).exists() and (out / ".mine.partial").exists()
    (out / ".mine.partial").unlink()
    assert_no_partial_files(out)


def test_a_folder_of_a_former_version_is_accepted(arguments, songs, tmp_path):
    """Its record lists no files: pieces have a picture or notes beside their wav, and no other wav is touched."""
    out, (prelude, song) = tmp_path / "out", songs
    assert call(inference, *arguments, "--midi", prelude).code == 0
    record = out / "inference.json"
    record.write_text(_without_products(record.read_text(encoding="utf-8")), encoding="utf-8")
    (out / "my_own_recording.wav").write_bytes(b"mine")
    at = modification_times(out)
    again = call(inference, *arguments, "--midi", prelude)
    assert again.code == 0 and "1 was there already" in again.out
    assert modification_times(out)["prelude.wav"] == at["prelude.wav"]
    record.write_text(_without_products(record.read_text(encoding="utf-8")), encoding="utf-8")
    forced = call(inference, *arguments, *settings("inference_config.seed=1"), "--midi", song, "--force")
    assert forced.code == 0 and wavs(out) == {"prelude.wav", "song.wav", "my_own_recording.wav"}
    assert "<h2>prelude</h2>" in page(out) and "my_own" not in page(out)


def test_two_processes_do_not_mix(arguments, songs, tmp_path):
    """The second one is refused while the first one samples a long piece."""
    long = write_midi(tmp_path / "long.mid", [(0.0, 0.05, 60, 90), (900.0, 900.1, 60, 90)])
    command = [sys.executable, ROOT / "inference.py", *arguments, "--midi", long]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list((tmp_path / "out").glob(".long.wav.*.partial")):
            pass
        second = call(inference, *arguments, *settings("inference_config.seed=1"), "--midi", *songs, "--force")
        assert_refused(second, "another run is working on")
    finally:
        process.kill()
        process.wait()
    assert list((tmp_path / "out").glob(".long.wav.*.partial"))
    assert call(inference, *arguments, "--midi", *songs).code == 0
    assert_no_partial_files(tmp_path / "out")


@pytest.fixture
def cut(pipeline, tmp_path):
    """A call of preprocess_audio.py on the pipeline's recordings."""

    def call_it(*overrides, force=False):
        split = settings("preprocess_config.split=test", *overrides)
        arguments = ("-c", pipeline.config, "-d", tmp_path / "test", *split)
        return call(preprocess_audio, *arguments, "--json", *(["--force"] if force else []))

    return call_it


def test_clips_of_the_user_stay_among_test_clips(cut, tmp_path):
    """One with the name of a clip, too, that was copied from another folder."""
    folder = tmp_path / "test"
    first = cut().result["clips"]
    mine = {"clip_mine.wav", "clip_007_x_1.000s.wav", "clip_007_x_1.000s.npz", "clip_scan.png"}
    for name in mine:
        (folder / name).write_bytes(b"mine")
    assert cut().result["clips"] == first
    refused = cut("preprocess_config.seed=2")
    assert_refused(refused, "--force, which removes the clips that an earlier call made in it and cuts new ones")
    second = cut("preprocess_config.seed=2", force=True).result["clips"]
    assert second != first
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    clips = {f"{name}.{suffix}" for name in second for suffix in ("wav", "npz", "png")}
    assert names == {*mine, *clips, "clips.json"}
    assert all((folder / name).read_bytes() == b"mine" for name in mine)


def test_clips_of_a_former_version_are_replaced(cut, tmp_path):
    folder, record = tmp_path / "test", tmp_path / "test/clips.json"
    first = cut().result["clips"]
    record.write_text(_without_products(record.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "clip_mine.wav").write_bytes(b"mine")
    assert cut().result["clips"] == first
    record.write_text(_without_products(record.read_text(encoding="utf-8")), encoding="utf-8")
    assert cut("preprocess_config.seed=2").code == 2
    second = cut("preprocess_config.seed=2", force=True).result["clips"]
    assert wavs(folder) == {"clip_mine.wav", *(f"{name}.wav" for name in second)}


def test_second_cutting_is_refused_and_leftovers_are_removed(cut, tmp_path):
    with folder_lock.lock_folder(tmp_path / "test"):
        assert_refused(cut(), "another run is working on")
    (tmp_path / "test" / LEFTOVER).write_bytes(b"half")
    assert cut().code == 0
    assert_no_partial_files(tmp_path / "test")
