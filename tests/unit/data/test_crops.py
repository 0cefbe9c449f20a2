"""The processed folder comes back as written or is refused; crops are slices of it, chosen by seed and index."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from midi2wave.audio.mu_law import mu_law_encode
from midi2wave.audio.pcm import silent_blocks
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import DataConfig
from midi2wave.data import crops as crops_module
from midi2wave.data import processed_folder, test_clips
from midi2wave.data.crops import CropAugmentation, Crops
from midi2wave.data.processed_folder import ProcessedFolder, Row
from midi2wave.midi.performance import Performance
from midi2wave.training.data_loader import batches, micro_batch_indices
from midi2wave.utils.errors import InputError

AUDIO_HZ, MIDI_HZ, HOP = 4000, 250, 16
MADE_FROM = {"preprocess_config": {"audio_hz": AUDIO_HZ}}
MARGINS = (3, 2)


def make_performance(seed: int, seconds: float) -> Performance:
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.uniform(0, seconds, 12))
    return Performance(
        onset=onset,
        offset=onset + 0.1,
        pitch=rng.integers(40, 80, 12),
        velocity=rng.integers(1, 128, 12),
        pedals={64: np.array([[0.0, 127.0], [0.1, 0.0]]), 66: np.zeros((0, 2)), 67: np.zeros((0, 2))},
    )


def write_folder(folder: Path, lengths: list[int]) -> list[np.ndarray]:
    """A processed folder with recordings of these many samples; returns their audio."""
    processed_folder.begin_folder(folder, MADE_FROM, force=False)
    rows, sounds = [], []
    for index, n_samples in enumerate(lengths):
        pcm = np.random.default_rng(index).integers(-20000, 20000, n_samples).astype(np.int16)
        seconds = n_samples / AUDIO_HZ
        row = Row(
            index, f"2004/é {index}.wav", f"{index}.midi", "train", 2004, seconds, n_samples, 12, 'A "B", C', "D\nE"
        )
        processed_folder.write_recording(folder, row, pcm, make_performance(index, seconds))
        rows.append(row)
        sounds.append(pcm)
    processed_folder.finish_folder(folder, rows)
    return sounds


@pytest.fixture
def folder(tmp_path) -> Path:
    write_folder(tmp_path / "data", [500, 4000, 1603])
    return tmp_path / "data"


def make_crops(
    folder, *, seed=1, n_previous=10, codes=False, noise=None, other=None, dropped=(0.0, 0.0), **config
) -> Crops:
    config = {"audio_hz": AUDIO_HZ, "midi_hz": MIDI_HZ, "segment_length": 0.2, **config}
    return Crops(ProcessedFolder(folder), DataConfig(**config), context_frames=MARGINS, n_previous=n_previous,
                 codes=codes, seed=seed, augmentation=CropAugmentation(noise, other, *dropped))  # fmt: skip


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_comes_back_as_written(folder):
    opened = ProcessedFolder(folder)
    assert opened.audio_hz == AUDIO_HZ and [row.n_samples for row in opened.rows] == [500, 4000, 1603]
    assert opened.rows[1] == Row(1, "2004/é 1.wav", "1.midi", "train", 2004, 1.0, 4000, 12, 'A "B", C', "D\nE")
    for position, row in enumerate(opened.rows):
        assert processed_folder.read_finished(folder, row, {}) == (row, {})
        pcm = opened.pcm(position)
        assert isinstance(pcm, np.memmap) and pcm.dtype == np.int16 and not pcm.flags.writeable
        assert np.array_equal(pcm, np.random.default_rng(position).integers(-20000, 20000, row.n_samples))
        there, made = opened.performance(position), make_performance(position, row.duration)
        assert np.array_equal(there.onset, made.onset) and np.array_equal(there.pedals[64], made.pedals[64])
    assert processed_folder.read_finished(folder, dataclasses.replace(opened.rows[0], index=3), {}) is None
    assert not list(folder.glob(".*"))


def test_only_int16_is_written(tmp_path):
    row = Row(0, "", "", "train", 2004, 1.0, 4, 12, "", "")
    with pytest.raises(TypeError):
        processed_folder.write_recording(tmp_path, row, np.zeros(4), make_performance(0, 1.0))
    assert not any(tmp_path.iterdir())


def test_a_row_is_written_last(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processed_folder, "save_events", full)
    row = Row(0, "", "", "train", 2004, 1.0, 4, 12, "", "")
    with pytest.raises(OSError, match="No space"):
        processed_folder.write_recording(tmp_path, row, np.zeros(4, dtype=np.int16), make_performance(0, 1.0))
    assert processed_folder.read_finished(tmp_path, row, {}) is None


@pytest.mark.parametrize("interrupted", ["atomic_file", "save_events", "write_text"])
def test_a_folder_in_which_a_recording_is_being_replaced_cannot_be_opened(folder, monkeypatch, interrupted):
    rows = ProcessedFolder(folder).rows

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(processed_folder, interrupted, killed)
        with pytest.raises(KeyboardInterrupt):
            processed_folder.write_recording(folder, rows[1], np.zeros(4000, np.int16), make_performance(9, 1.0))
    with pytest.raises(InputError, match="not a processed folder"):
        ProcessedFolder(folder)
    processed_folder.write_recording(folder, rows[1], np.zeros(4000, np.int16), make_performance(9, 1.0))
    processed_folder.finish_folder(folder, rows)
    assert not ProcessedFolder(folder).pcm(1).any()


def test_a_recording_that_comes_to_others_leaves_their_folder_open(folder):
    row = dataclasses.replace(ProcessedFolder(folder).rows[0], index=3)
    processed_folder.write_recording(folder, row, np.zeros(500, np.int16), make_performance(9, 1.0))
    assert len(ProcessedFolder(folder).rows) == 3


def test_a_damaged_row_means_that_the_recording_is_not_finished(folder):
    row = ProcessedFolder(folder).rows[0]
    for text in ("", "{", "[]", "3", '"x"', "null", '{"index": 0}'):
        (folder / "0.json").write_text(text)
        assert processed_folder.read_finished(folder, row, {}) is None


@pytest.mark.parametrize(
    "wrong",
    [{"sources": []}, {"sources": "x"}, {"facts": []}, {"duration": "x"}, {"duration": float("nan")},
     {"duration": -1.0}, {"duration": 10**400}, {"n_samples": 500.0}, {"n_samples": 501}, {"n_notes": None},
     {"year": "2004"}, {"title": "\ud800"}, {"composer": 3}, {"index": 1}, {"audio_filename": 3}, {"more": 1}],
)  # fmt: skip
def test_a_row_of_other_kinds_means_that_the_recording_is_not_finished(folder, wrong):
    row = ProcessedFolder(folder).rows[0]
    stored = json.loads((folder / "0.json").read_text(encoding="utf-8"))
    (folder / "0.json").write_text(json.dumps({**stored, **wrong}))
    assert processed_folder.read_finished(folder, row, {}) is None


def test_damaged_audio_or_notes_mean_that_the_recording_is_not_finished(folder):
    row = ProcessedFolder(folder).rows[0]
    for suffix in ("npy", "npz"):
        path = folder / f"0.{suffix}"
        whole = path.read_bytes()
        spoilt = [b"", whole[:-1], whole + b"\0"]
        if suffix == "npz":
            spoilt.append(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        for damaged in spoilt:
            path.write_bytes(damaged)
            assert processed_folder.read_finished(folder, row, {}) is None
        path.write_bytes(whole)
        assert processed_folder.read_finished(folder, row, {}) == (row, {})


def test_recordings_from_before_the_states_of_the_files_were_kept_stay_finished(folder):
    row, path = ProcessedFolder(folder).rows[0], folder / "0.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["files"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert processed_folder.read_finished(folder, row, {}) == (row, {})
    (folder / "0.npz").write_bytes((folder / "0.npz").read_bytes()[:100])
    assert processed_folder.read_finished(folder, row, {}) is None


@pytest.mark.parametrize("name", ["audio_filename", "midi_filename", "split"])
def test_another_recording_under_an_index_is_not_taken_for_finished(folder, name):
    recording = dataclasses.replace(ProcessedFolder(folder).rows[1], **{name: "other"})
    with pytest.raises(InputError, match=f"another recording under index 1 .{name} .*'other'.* --force"):
        processed_folder.read_finished(folder, recording, {})


def test_a_folder_of_other_contents_is_not_taken(folder, tmp_path):
    processed_folder.begin_folder(folder, MADE_FROM, force=False)  # going on with the same config
    assert ProcessedFolder(folder).rows
    with pytest.raises(InputError, match="another config"):
        processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": 8000}}, force=False)
    (folder / "mine.txt").write_text("keep")
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": 8000}}, force=True)
    assert {p.name for p in folder.iterdir()} == {"dataset.json", "mine.txt"}


def spoil_record(folder, record):
    (folder / "dataset.json").write_text(json.dumps(record))


SPOILT = {
    "no index": (lambda f: (f / "filenames.csv").unlink(), "not a processed folder"),
    "no record": (lambda f: (f / "dataset.json").unlink(), "damaged"),
    "binary record": (lambda f: (f / "dataset.json").write_bytes(b"\xff\xfe"), "damaged"),
    "record without format": (lambda f: spoil_record(f, {"made_from": MADE_FROM}), "damaged"),
    "record is a list": (lambda f: spoil_record(f, [1]), "damaged"),
    "record of another program": (lambda f: spoil_record(f, {"format": 1, "made_from": []}), "damaged"),
    "later format": (lambda f: spoil_record(f, {"format": 2}), "has format 2, expected 1"),
    "index of another program": (lambda f: (f / "filenames.csv").write_text("a,b\n1,2\n"), "damaged"),
    "index cut within a row": (lambda f: (f / "filenames.csv").write_text(
        (f / "filenames.csv").read_text()[:-30]), "damaged"),
    "index of binary": (lambda f: (f / "filenames.csv").write_bytes(b"\x93NUMPY\x00\xff"), "damaged"),
    "index of one endless field": (lambda f: (f / "filenames.csv").write_text("index\n" + 200_000 * "1"), "damaged"),
    "empty index": (lambda f: (f / "filenames.csv").write_text(""), "holds no recordings"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT.keys())
def test_folders_that_are_not_whole(folder, spoil, words):
    spoil(folder)
    with pytest.raises(InputError, match=words) as caught:
        ProcessedFolder(folder)
    assert str(folder) in str(caught.value)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(InputError, match=r"not a processed folder.*run preprocess_maestro.py"):
        ProcessedFolder(tmp_path / "nowhere")


def test_damaged_audio(folder):
    path = folder / "1.npy"
    whole = path.read_bytes()
    for spoilt in (b"", whole[:4], whole[:60], whole[:-1], whole[:200], b"RIFF" + whole, b"PK\x03\x04" + whole):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
            ProcessedFolder(folder).pcm(1)
    for other in (np.zeros(4000), np.zeros(3999, dtype=np.int16), np.zeros((2, 2000), dtype=np.int16)):
        np.save(path, other)
        with pytest.raises(InputError, match="does not hold the 4000 samples"):
            ProcessedFolder(folder).pcm(1)
    np.save(path, np.array([{}] * 4000), allow_pickle=True)
    with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
        ProcessedFolder(folder).pcm(1)
    path.unlink()
    with pytest.raises(InputError, match=r"1\.npy is missing or damaged"):
        ProcessedFolder(folder).pcm(1)


def test_damaged_events(folder):
    path = folder / "1.npz"
    whole = path.read_bytes()
    for spoilt in (b"", whole[:50], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"1\.npz"):
            ProcessedFolder(folder).performance(1)


@contextlib.contextmanager
def few_files(more: int):
    """No more than so many files beyond those that are open now."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_more_recordings_than_a_process_may_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    sounds = write_folder(tmp_path / "data", [20 + i for i in range(200)])
    opened = ProcessedFolder(tmp_path / "data")
    held = opened.pcm(0)
    with few_files(processed_folder.MAPPED_RECORDINGS + 20):
        for position in (*range(200), *range(200)):
            assert np.array_equal(opened.pcm(position), sounds[position])
        recent = opened.pcm(199)
        assert opened.pcm(199) is recent
    assert np.array_equal(held, sounds[0])  # closed by whoever holds it, not under their hands


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_too_many_open_files_are_not_called_damage(folder):
    opened = ProcessedFolder(folder)
    for read in (lambda: opened.pcm(1), lambda: opened.performance(1), lambda: ProcessedFolder(folder)):
        with few_files(1), contextlib.ExitStack() as others:
            with contextlib.suppress(OSError):
                while True:
                    others.enter_context(open(os.devnull))
            with pytest.raises(OSError, match="Too many open files"):
                read()
    assert opened.pcm(1).shape == (4000,)


def test_a_crop_is_a_slice_of_its_recording_and_of_its_conditioning(tmp_path):
    sounds = write_folder(tmp_path / "data", [1700, 900])
    crops = make_crops(tmp_path / "data", n_previous=150)
    begun_in_silence = 0
    for i in range(60):
        position, frame = crops.locate_crop(i)
        crop, first = crops[i], frame * HOP
        padded = np.concatenate([np.zeros(150, dtype=np.int16), sounds[position]])  # silence before the first sample
        assert crop["samples"].dtype == torch.int64
        assert crop["samples"].tolist() == sounds[position][first : first + 800].tolist()
        assert crop["history"].tolist() == padded[first : first + 950].tolist()
        data = DataConfig(audio_hz=AUDIO_HZ, midi_hz=MIDI_HZ, features=["note_state"])
        notes = NoteConditioning(make_performance(position, len(sounds[position]) / AUDIO_HZ), data)
        whole, excitation = notes.features(-3, 200), notes.excitation(0, 200)
        assert np.array_equal(crop["features"], whole[:, frame : frame + 3 + 50 + 2])
        assert np.array_equal(crop["excitation"], excitation[:, first : first + 800])
        begun_in_silence += first < 150
    assert 0 < begun_in_silence < 60
    assert {crops.locate_crop(i)[0] for i in range(60)} == {0, 1}


def test_codes_are_the_mu_law_codes_of_the_pcm(folder):
    pcm, codes = (make_crops(folder, codes=codes, n_previous=2000) for codes in (False, True))
    for i in range(10):
        for name in ("samples", "history"):
            assert torch.equal(codes[i][name], torch.from_numpy(mu_law_encode(pcm[i][name].numpy())).long())
    in_silence = next(i for i in range(40) if codes.locate_crop(i)[1] * HOP < 2000)
    assert codes[in_silence]["history"][0] == 128


def test_without_excitation_it_has_no_channels(folder):
    crop = make_crops(folder, excitation=False)[0]
    assert set(crop) == {"index", "samples", "history", "features", "excitation"}
    assert crop["excitation"].shape == (0, len(crop["samples"]))


def test_crops_are_a_pure_function_of_seed_and_index(folder):
    crops, again = make_crops(folder), make_crops(folder)
    backwards = {i: again[i] for i in reversed(range(40))}
    assert all(equal(crops[i], backwards[i]) for i in range(40))
    places = [crops.locate_crop(i) for i in range(40)]
    assert len(set(places)) > 30
    assert places != [make_crops(folder, seed=2).locate_crop(i) for i in range(40)]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_processes_share_the_crops_of_a_step(size, micro_batch_size):
    shares = [list(micro_batch_indices(range(3, 6), 8, micro_batch_size, rank, size)) for rank in range(size)]
    assert all(len(batch) == micro_batch_size for share in shares for batch in share)
    passes = 8 // size // micro_batch_size
    for i, step in enumerate(range(3, 6)):
        taken = [index for share in shares for batch in share[i * passes : (i + 1) * passes] for index in batch]
        assert taken == list(range(step * 8, (step + 1) * 8))  # each once, the same ones whatever the number


def test_every_frame_is_as_likely_as_any_other(tmp_path):
    write_folder(tmp_path / "data", [64, 160, 40, 300])  # 4, 10, 2 and 18 frames; crops of 3 have 2 + 8 + 0 + 16 places
    crops, n = make_crops(tmp_path / "data", segment_length=3 / MIDI_HZ), 26 * 200
    counts = {}
    for i in range(n):
        counts[crops.locate_crop(i)] = counts.get(crops.locate_crop(i), 0) + 1
    assert sorted(counts) == [(0, f) for f in range(2)] + [(1, f) for f in range(8)] + [(3, f) for f in range(16)]
    chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_square < 52.6  # one seed in a thousand exceeds this with 25 degrees of freedom


def test_recordings_shorter_than_a_crop_are_never_chosen(folder):
    crops = make_crops(folder, segment_length=0.4)  # 1600 samples: of the three, only those of 4000 and 1603 hold one
    places = {crops.locate_crop(i) for i in range(2000)}
    assert {position for position, _ in places} == {1, 2}
    assert {frame for position, frame in places if position == 2} == {0}
    assert max(frame for position, frame in places if position == 1) == 150  # the last whole crop is reached
    assert all(len(crops[i]["samples"]) == 1600 for i in range(40))


def test_no_recording_as_long_as_a_crop(folder):
    with pytest.raises(
        InputError, match=r"crop of 1\.1 s \(the longest has 1\.00 s\); lower data_config.segment_length"
    ):
        make_crops(folder, segment_length=1.1)
    assert len(make_crops(folder, segment_length=1.0)[0]["samples"]) == 4000


def test_another_rate_is_refused(folder):
    with pytest.raises(InputError, match=r"is at 4000 Hz, but data_config.audio_hz = 8000"):
        make_crops(folder, audio_hz=8000)


def test_another_crop_s_sound_is_on_the_history_only(folder):
    clean, disturbed = make_crops(folder), make_crops(folder, other=lambda _: 0.5)
    sounds = [disturbed.folder.pcm(i).astype(float) for i in range(3)]
    levels = []
    for i in range(20):
        own, shown = clean[i], disturbed[i]
        assert all(torch.equal(own[name], shown[name]) for name in ("samples", "features", "excitation"))
        added = (shown["history"] - own["history"]).double().numpy()
        levels.append(added.std() / own["history"].double().square().mean().sqrt().item())
        if levels[-1] > 0.02:  # it is a stretch of some recording, scaled: found by correlation
            best = max(np.abs(np.correlate(sound, added, "valid")).max() / np.linalg.norm(added) for sound in sounds
                       if len(sound) >= len(added))  # fmt: skip
            assert best > 0.9 * 20000 / 3**0.5 * len(added) ** 0.5 * 0.9
    assert 0.15 < np.mean(levels) < 0.35 and max(levels) < 0.52
    assert equal(disturbed[4], make_crops(folder, other=lambda _: 0.5)[4])


def test_a_share_of_the_crops_has_nothing_but_noise_for_a_history(folder):
    clean, dropped = make_crops(folder), make_crops(folder, dropped=(0.25, 0.0))
    changed = 0
    for i in range(200):
        own, other = clean[i], dropped[i]
        assert all(torch.equal(own[name], other[name]) for name in ("samples", "features", "excitation"))
        history, shown = own["history"].double(), other["history"].double()
        if not torch.equal(history, shown):
            changed += 1
            correlation = (history * shown).sum() / (history.norm() * shown.norm())
            assert abs(correlation) < 0.2  # 810 independent samples: 0.035 (rms)
            assert shown.norm() < 1.1 * history.norm()
    assert 30 < changed < 70  # 50 +- 6


def test_a_share_of_the_crops_is_shown_the_null_condition(folder):
    clean, dropped = make_crops(folder), make_crops(folder, dropped=(0.0, 0.25))
    null = [i for i in range(200) if not torch.equal(clean[i]["features"], dropped[i]["features"])]
    assert 30 < len(null) < 70
    for i in null:
        assert (dropped[i]["features"] == -1).all() and not dropped[i]["excitation"].any()
        assert dropped[i]["excitation"].shape == clean[i]["excitation"].shape
    kept = next(i for i in range(200) if i not in null)
    assert equal(clean[kept], dropped[kept])


def test_noise_is_on_the_history_only_and_new_for_every_crop(folder):
    clean, noisy = make_crops(folder), make_crops(folder, noise=lambda index: 0.5)
    residues = []
    for i in range(20):
        assert torch.equal(noisy[i]["samples"], clean[i]["samples"]) and equal(noisy[i], noisy[i])
        noise = (noisy[i]["history"] - clean[i]["history"]).double()
        level = noise.std() / clean[i]["history"].double().square().mean().sqrt()
        assert 0 < level < 0.52
        residues.append(noise / noise.norm())
    # Independent noise of 810 samples correlates by 1/28 (rms) at any shift; a shifted copy would by nearly 1.
    spectra = torch.fft.rfft(torch.stack(residues), 2048)
    correlations = torch.fft.irfft(spectra[1:] * spectra[:-1].conj())
    assert correlations.abs().max() < 0.25


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_batches_are_the_same_with_and_without_workers(folder):
    crops, indices = make_crops(folder), [[7, 1, 2, 3], [4, 5, 6, 0], [8, 9]]
    alone, helped = (list(batches(crops, indices, n_workers)) for n_workers in (0, 2))
    assert [len(batch["samples"]) for batch in alone] == [4, 4, 2]
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert torch.equal(alone[1]["samples"][2], crops[6]["samples"])


@pytest.mark.parametrize("n_workers", [0, 1])
def test_damage_met_while_reading_is_one_line_also_from_a_worker(folder, n_workers):
    for index in range(3):
        (folder / f"{index}.npy").write_bytes(b"")
    before = multiprocessing.active_children()
    with pytest.raises(InputError) as caught:
        list(batches(make_crops(folder), [list(range(40))], n_workers))
    message = str(caught.value)
    assert message.startswith(str(folder)) and "missing or damaged" in message and "\n" not in message
    del caught
    assert set(multiprocessing.active_children()) <= set(before)  # no worker is left to be waited for


def test_clips_come_back_by_name_and_damage_is_refused(tmp_path):
    folder = tmp_path / "test"
    with pytest.raises(InputError, match="holds no test clips; make some"):
        test_clips.clip_paths(folder)
    test_clips.begin_clips(folder, MADE_FROM, force=False)
    pcm = np.arange(-500, 500, dtype=np.int16)
    for number in (1, 0):
        name = test_clips.write_clip(folder, number, "x", 1.5, pcm + number, make_performance(0, 1.0), AUDIO_HZ)
        assert name == f"clip_00{number}_x_1.500s"
    paths = test_clips.clip_paths(folder)
    clips = [test_clips.read_clip(path, AUDIO_HZ) for path in paths]
    assert [clip.name for clip in clips] == ["clip_000_x_1.500s", "clip_001_x_1.500s"]
    assert np.array_equal(clips[1].pcm, pcm + 1)
    assert np.array_equal(clips[1].performance.onset, make_performance(0, 1.0).onset)
    with pytest.raises(InputError, match="is at 4000 Hz, expected 16000"):
        test_clips.read_clip(paths[1], 16000)
    (folder / "clip_001_x_1.500s.npz").unlink()
    with pytest.raises(InputError, match=r"clip_001_x_1\.500s\.npz"):
        test_clips.read_clip(paths[1], AUDIO_HZ)


def test_silent_crops_are_drawn_again_and_the_others_stay_what_they_were(tmp_path):
    (sound,) = write_folder(tmp_path / "data", [40_000])
    path = tmp_path / "data/0.npy"
    sound[10_000:] = 3  # three quarters of the recording: 20 dB below the limit
    np.save(path, sound)
    plain, capped = make_crops(tmp_path / "data"), make_crops(tmp_path / "data", max_silence=0.25)
    half = make_crops(tmp_path / "data", max_silence=0.5)
    silent = [silent_blocks(plain[i]["samples"].numpy().astype(np.int16), AUDIO_HZ).mean() for i in range(200)]
    assert 100 < sum(part > 0.25 for part in silent) < 180
    for i, part in enumerate(silent):
        assert (capped.locate_crop(i) == plain.locate_crop(i)) == (part <= 0.25)
        assert silent_blocks(capped[i]["samples"].numpy().astype(np.int16), AUDIO_HZ).mean() <= 0.25
        assert half.locate_crop(i) == plain.locate_crop(i) or part > 0.5
    everything = make_crops(tmp_path / "data", max_silence=0.0)
    np.save(path, np.zeros_like(sound))
    everything.folder._mapped.clear()
    assert len(everything[3]["samples"]) == 800  # a silent data set still gives crops


def test_only_so_many_recordings_are_kept_in_memory(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", [4000] * 5)
    reference = make_crops(tmp_path / "data")
    monkeypatch.setattr(crops_module, "CACHED_RECORDINGS", 2)
    crops = make_crops(tmp_path / "data")
    assert all(equal(crops[i], reference[i]) for i in range(60))
    assert len(crops._conditionings) == 2


def test_crops_are_slices_of_the_emphasized_recording(folder):
    plain, shown, codes = (make_crops(folder, codes=codes, preemphasis=a) for codes, a in ((0, 0), (0, 0.9), (1, 0.9)))
    n, at_the_start = plain.n_frames * plain.hop, set()
    for i in range(200):
        position, frame = plain.locate_crop(i)
        whole = emphasize(plain.folder.pcm(position), 0.9)
        before = np.concatenate([np.zeros(10, dtype=np.int16), whole])[frame * plain.hop :][: 10 + n]
        assert np.array_equal(shown[i]["history"], before) and np.array_equal(shown[i]["samples"], before[10:])
        at_the_start.add(frame == 0)
    assert at_the_start == {True, False}
    assert np.array_equal(codes[3]["history"], mu_law_encode(shown[3]["history"].numpy()))
