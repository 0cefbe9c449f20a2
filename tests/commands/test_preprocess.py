"""Preprocessing where the metadata changed meanwhile, and what a test clip holds beyond its audio."""

import errno
import json

import numpy as np
import pytest

import preprocess_audio
import preprocess_maestro
from midi2wave.audio import io as audio_io
from midi2wave.data import clip_cutting, preprocessing, test_clips
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import CLIP_MARGIN_SECONDS, clip
from midi2wave.plotting import figures
from midi2wave.plotting.figures import pixels
from tests.helpers.fake_piano import performance as make_performance
from tests.helpers.pipeline import (
    HZ,
    SECONDS,
    assert_failed,
    assert_refused,
    call,
    read_files,
    read_wav,
    settings,
    write_audio,
    write_config,
    write_maestro,
    write_midi,
)

CLIP_SECONDS = 0.5


def test_metadata_in_another_order_are_refused(tmp_path):
    """Rows are known by their number: with two of them swapped, the folder's 0.npy is another recording."""
    metadata = write_maestro(tmp_path / "maestro", ["train", "train"]) / "maestro-v2.0.0.csv"
    arguments = ("-c", write_config(tmp_path))
    assert call(preprocess_maestro, *arguments).code == 0
    before = read_files(tmp_path / "train")
    header, *rows = metadata.read_text(encoding="utf-8").splitlines()
    metadata.write_text("\n".join([header, *reversed(rows)]) + "\n", encoding="utf-8")

    assert_refused(
        call(preprocess_maestro, *arguments), "holds another recording under index 0", "2004/1.wav", "--force"
    )
    assert read_files(tmp_path / "train") == before
    assert call(preprocess_maestro, *arguments, "--force").code == 0
    assert [row.audio_filename for row in ProcessedFolder(tmp_path / "train").rows] == [
        "2004/1.wav",
        "2004/0.wav",
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, "Input/output error", "2004/0_16000.wav"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "2004/0_16000.wav"), "no permission for 2004/0_16000.wav"),
        (FileNotFoundError(errno.ENOENT, "No such file", "2004/0_16000.wav"), "No such file"),
    ],
)
@pytest.mark.parametrize("reader", ["read_pcm", "read_midi", "state"])
def test_unreadable_recording_is_left_out(tmp_path, monkeypatch, reader, error, words):
    write_maestro(tmp_path / "maestro", ["train", "train"])
    arguments = ("-c", write_config(tmp_path), "--json")
    with monkeypatch.context() as broken:
        broken.setattr(preprocessing, reader, broken_for("0", getattr(preprocessing, reader), error))
        assert_failed(call(preprocess_maestro, *arguments), 1, **{"0": words})
    assert [row.audio_filename for row in ProcessedFolder(tmp_path / "train").rows] == ["2004/1.wav"]
    assert call(preprocess_maestro, *arguments).code == 0
    assert len(ProcessedFolder(tmp_path / "train").rows) == 2


def test_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    write_maestro(tmp_path / "maestro", ["train", "train"])
    full = OSError(errno.ENOSPC, "No space left on device", "0.npy")
    monkeypatch.setattr(preprocessing, "read_pcm", broken_for("0", preprocessing.read_pcm, full))
    assert_refused(call(preprocess_maestro, "-c", write_config(tmp_path)), "the disk is full (0.npy)")


def broken_for(number: str, reader, error: OSError):
    """`reader`, but for the recording of this number an error of the disk."""

    def read(path, *arguments):
        if path.name.startswith(number):
            raise error
        return reader(path, *arguments)

    return read


@pytest.mark.parametrize(
    "wrong",
    [
        {"dropped": ["hello"]},
        {"dropped": ["hello: many"]},
        {"dropped": "x: 1"},
        {"warnings": [3]},
        {"peak": "1"},
        {"peak": float("nan")},
        {"late_ms": [None]},
        {"late_ms": 3},
        {"pitches": ["1"] * 88},
        {"velocities": [0.5] * 128},
        {"pedal_events": [1]},
        {"silent_seconds": True},
        {"midi_outlasts_seconds": 10**400},
        {"more": 1},
    ],
)
def test_facts_of_wrong_types_are_measured_again(tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(figures, "save_figure", lambda path, _: path.write_bytes(b"a picture"))
    write_maestro(tmp_path / "maestro", ["train"])
    arguments = ("-c", write_config(tmp_path))
    assert call(preprocess_maestro, *arguments).code == 0
    before, path = read_files(tmp_path / "train"), tmp_path / "train/0.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**stored, "facts": {**stored["facts"], **wrong}}), encoding="utf-8")
    assert call(preprocess_maestro, *arguments).code == 0
    assert read_files(tmp_path / "train") == before


def test_clip_has_notes_of_its_margins_but_shows_its_own(tmp_path, monkeypatch):
    """Clips lie at 30, 40 and 45 s, each with one note, the others of these up to 15 s before and after.

    Clips that do not overlap are not more than these three.
    """
    notes = [(second, second + 0.1, pitch, 90) for second, pitch in ((0, 30), (30, 50), (40, 60), (45, 70), (66, 80))]
    write_midi(tmp_path / "pairs/a.mid", notes)
    write_audio(tmp_path / "pairs/a.wav", notes, seconds=60.0)
    overrides = ("maestro_dir=", f"audio_dir={tmp_path}/pairs", "n_clips=8", f"test_segment_length={CLIP_SECONDS}")
    drawings = {}
    monkeypatch.setattr(figures, "save_figure", lambda path, figure: drawings.update({path.stem: figure}))
    done = call(
        preprocess_audio,
        "-d",
        tmp_path / "clips",
        "-c",
        write_config(tmp_path),
        "--json",
        *settings(*(f"preprocess_config.{override}" for override in overrides)),
    )
    assert done.code == 0 and len(done.result["clips"]) == 3

    own_pitches = set()
    for name in done.result["clips"]:
        clip = test_clips.read_clip(tmp_path / f"clips/{name}.wav", 16000)
        start = float(name.rsplit("_", 1)[1][:-1])
        assert clip.performance.pitch.tolist() == [50, 60, 70]
        np.testing.assert_allclose(clip.performance.onset, np.array([30, 40, 45]) - start, atol=1e-9)
        (own,) = np.flatnonzero((clip.performance.onset >= 0) & (clip.performance.onset < CLIP_SECONDS))
        assert clip.performance.onset[own] >= CLIP_SECONDS / 2  # notes begin in the part that a prompted model plays
        bars = drawings[name].axes[0].collections[-1].get_array()  # a velocity for every note that is held
        low, high = drawings[name].axes[0].get_ylim()
        assert len(bars) == 1 and (low + high) / 2 == clip.performance.pitch[own]
        own_pitches.add(int(clip.performance.pitch[own]))
    assert own_pitches == {50, 60, 70}


def cut_clips(folder, *options, code=0):
    """The clips of pairs/ as (recording, start), without pictures, and what the command said."""
    overrides = settings(*(f"preprocess_config.{option}" for option in ("maestro_dir=", *options)))
    pairs = settings(f"preprocess_config.audio_dir={folder}/pairs")
    done = call(
        preprocess_audio, "-d", folder / "clips", "-c", write_config(folder), "--json", "--force", *pairs, *overrides
    )
    assert done.code == code, done.err
    names = done.result["clips"]
    return [(test_clips.clip_source(name), float(name.rpartition("_")[2][:-1])) for name in names], done.err


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """A short recording with room for one clip of 2 s, one of 12 s and one of 20 s."""
    monkeypatch.setattr(clip_cutting, "save_picture", lambda path, _: path.touch())
    for name, seconds in (("a", 3), ("b", 12), ("c", 20)):
        notes = [(0.25 * k, 0.25 * k + 0.2, 60, 90) for k in range(4 * seconds)]
        write_midi(tmp_path / f"pairs/{name}.mid", notes)
        write_audio(tmp_path / f"pairs/{name}.wav", notes, seconds=float(seconds))
    return tmp_path


def overlap(clips, seconds):
    """Whether two of the clips of one recording share samples."""
    starts = {source: sorted(start for one, start in clips if one == source) for source, _ in clips}
    return any(np.diff(ones).min(initial=np.inf) < seconds - 1e-9 for ones in starts.values())


@pytest.mark.parametrize("seed", range(4))
def test_clips_do_not_overlap(pairs, seed):
    """Recordings give a clip each in turn, as long as they have room; the first clips of more are the same."""
    most, said = cut_clips(pairs, "n_clips=100", "test_segment_length=2", f"seed={seed}")
    assert not overlap(most, 2.0)
    assert [source for source, _ in most].count("a") == 1 and len(most) >= 1 + 3 + 5
    assert {source for source, _ in most[:3]} == {"a", "b", "c"} and most[3][0] != most[4][0]
    assert said.count("no room for one more clip of 2 s") == 1 and f"; {len(most)} of 100 clips" in said
    fewer, said = cut_clips(pairs, "n_clips=3", "test_segment_length=2", f"seed={seed}")
    assert fewer == most[:3] and "no room" not in said


@pytest.mark.parametrize(("n_samples", "code"), [(63_940, 2), (63_999, 2), (64_000, 0), (64_063, 0)])
def test_a_clip_has_all_its_samples(tmp_path, n_samples, code):
    """Also where the recording lacks less than a frame, which has 64 samples."""
    notes = [(0.1 * k, 0.1 * k + 0.05, 60, 90) for k in range(40)]
    write_midi(tmp_path / "pairs/a.mid", notes)
    write_audio(tmp_path / "pairs/a.wav", notes, seconds=n_samples / HZ)
    overrides = ("maestro_dir=", f"audio_dir={tmp_path}/pairs", "n_clips=1", "test_segment_length=4")
    overrides = settings(*(f"preprocess_config.{override}" for override in overrides))
    done = call(preprocess_audio, "-d", tmp_path / "clips", "-c", write_config(tmp_path), "--json", *overrides)
    if code:
        assert_failed(done, code, a=f"{n_samples / HZ:.3f} s of audio, shorter than a clip of 4 s")
    else:
        assert [len(read_wav(path)) for path in (tmp_path / "clips").glob("*.wav")] == [64_000]


def test_clips_do_not_depend_on_recordings_that_fail(pairs):
    """Each visit of a recording takes one random number, whether it gives a clip or not."""
    clips, _ = cut_clips(pairs, "n_clips=3", "test_segment_length=2")
    (pairs / f"pairs/{clips[0][0]}.mid").write_bytes(b"nothing")
    fewer, _ = cut_clips(pairs, "n_clips=2", "test_segment_length=2", code=1)
    assert fewer == clips[1:]


def test_a_full_recording_leaves_its_clips_to_the_others(pairs):
    clips, said = cut_clips(pairs, "n_clips=6", "test_segment_length=2")
    assert len(clips) == 6 and [source for source, _ in clips].count("a") == 1
    assert "no room for one more clip of 2 s beside the others in 1 recording (a); 6 of 6 clips" in said


def test_margin_of_a_clip_is_not_in_the_picture():
    rng = np.random.default_rng(0)
    onset = np.sort(rng.uniform(0, 60, 200))
    notes = [(t, t + 0.5, int(rng.integers(30, 90)), int(rng.integers(1, 128))) for t in onset]
    sustain = [(float(t), int(rng.integers(0, 128))) for t in np.arange(0.3, 60, 1.7)]
    whole = make_performance([*notes, (27.0, 27.5, 95, 60), (31.0, 31.5, 25, 60), (11.0, 12.0, 21, 60)], sustain)
    plain, wide = (
        clip(whole, 26, 30),
        clip(whole, 26, 30, margin=CLIP_MARGIN_SECONDS),
    )
    assert wide.onset[0] < -15 and wide.onset[-1] > 15 and len(plain.onset) < len(wide.onset) / 5
    pictures = [pixels(figures.piano_roll_figure(performance, 4.0)) for performance in (plain, wide)]
    assert np.array_equal(*pictures)


def test_all_audio_formats_are_paired_with_their_midi(tmp_path):
    for number, suffix in enumerate(audio_io.AUDIO_SUFFIXES):
        notes = [(0.1 * k, 0.1 * k + 0.05, 60, 90) for k in range(int(10 * SECONDS))]
        write_midi(tmp_path / f"pairs/{number}.mid", notes)
        (tmp_path / f"pairs/{number}{suffix}").touch()
    overrides = settings("preprocess_config.maestro_dir=", f"preprocess_config.audio_dir={tmp_path}/pairs")
    done = call(preprocess_audio, "-d", tmp_path / "clips", "-c", write_config(tmp_path), "--json", *overrides)
    assert "without a partner" not in done.err
    assert len(done.result["failures"]) == len(audio_io.AUDIO_SUFFIXES)
