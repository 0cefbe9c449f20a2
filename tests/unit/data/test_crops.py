"""Crops are slices of recordings, chosen by seed and index, with augmentations of their history."""

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
from midi2wave.data.crops import CropAugmentation
from midi2wave.utils.errors import InputError
from tests.helpers.processed_data import AUDIO_HZ, HOP, MIDI_HZ, equal, make_crops, make_performance, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A processed folder of three recordings."""
    write_folder(tmp_path / "data", [500, 4000, 1603])
    return tmp_path / "data"


def test_crop_is_a_slice_of_recording_and_conditioning(tmp_path):
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


def test_every_frame_is_as_likely_as_any_other(tmp_path):
    write_folder(tmp_path / "data", [64, 160, 40, 300])  # 4, 10, 2 and 18 frames; crops of 3 have 2 + 8 + 0 + 16 places
    crops, n = make_crops(tmp_path / "data", segment_length=3 / MIDI_HZ), 26 * 200
    counts = {}
    for i in range(n):
        counts[crops.locate_crop(i)] = counts.get(crops.locate_crop(i), 0) + 1
    assert sorted(counts) == [(0, f) for f in range(2)] + [(1, f) for f in range(8)] + [(3, f) for f in range(16)]
    chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_square < 52.6  # one seed in a thousand exceeds this with 25 degrees of freedom


def test_recordings_shorter_than_a_crop_are_never_used(folder):
    crops = make_crops(folder, segment_length=0.4)  # 1600 samples: of the three, only those of 4000 and 1603 hold one
    places = {crops.locate_crop(i) for i in range(2000)}
    assert {position for position, _ in places} == {1, 2}
    assert {frame for position, frame in places if position == 2} == {0}
    assert max(frame for position, frame in places if position == 1) == 150  # the last whole crop is reached
    assert all(len(crops[i]["samples"]) == 1600 for i in range(40))


def test_folder_of_short_recordings_is_refused(folder):
    with pytest.raises(
        InputError, match=r"crop of 1\.1 s \(the longest has 1\.00 s\); lower data_config.segment_length"
    ):
        make_crops(folder, segment_length=1.1)
    assert len(make_crops(folder, segment_length=1.0)[0]["samples"]) == 4000


def test_another_rate_is_refused(folder):
    with pytest.raises(InputError, match=r"is at 4000 Hz, but data_config.audio_hz = 8000"):
        make_crops(folder, audio_hz=8000)


def test_history_mixing_changes_only_the_history(folder):
    mixing = CropAugmentation(history_mixing=lambda _: 0.5)
    clean, disturbed = make_crops(folder), make_crops(folder, augmentation=mixing)
    sounds = [disturbed.folder.pcm(i).astype(float) for i in range(3)]
    levels = []
    for i in range(20):
        own, shown = clean[i], disturbed[i]
        assert all(torch.equal(own[name], shown[name]) for name in ("samples", "features", "excitation"))
        added = (shown["history"] - own["history"]).double().numpy()
        levels.append(added.std() / own["history"].double().square().mean().sqrt().item())
        if levels[-1] > 0.02:  # it is a stretch of some recording, scaled: found by correlation
            best = max(
                np.abs(np.correlate(sound, added, "valid")).max() / np.linalg.norm(added)
                for sound in sounds
                if len(sound) >= len(added)
            )
            assert best > 0.9 * 20000 / 3**0.5 * len(added) ** 0.5 * 0.9
    assert 0.15 < np.mean(levels) < 0.35 and max(levels) < 0.52
    assert equal(disturbed[4], make_crops(folder, augmentation=mixing)[4])


def test_history_dropout_replaces_the_history_by_noise(folder):
    """A quarter of the crops has noise alone as history."""
    clean, dropped = make_crops(folder), make_crops(folder, augmentation=CropAugmentation(history_dropout=0.25))
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


def test_conditioning_dropout_gives_the_null_condition(folder):
    clean, dropped = make_crops(folder), make_crops(folder, augmentation=CropAugmentation(conditioning_dropout=0.25))
    null = [i for i in range(200) if not torch.equal(clean[i]["features"], dropped[i]["features"])]
    assert 30 < len(null) < 70
    for i in null:
        assert (dropped[i]["features"] == -1).all() and not dropped[i]["excitation"].any()
        assert dropped[i]["excitation"].shape == clean[i]["excitation"].shape
    unchanged = next(i for i in range(200) if i not in null)
    assert equal(clean[unchanged], dropped[unchanged])


def test_history_noise_differs_between_crops(folder):
    """The noise is on the history alone and independent for every crop."""
    clean, noisy = make_crops(folder), make_crops(folder, augmentation=CropAugmentation(history_noise=lambda _: 0.5))
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


def test_silent_crops_are_redrawn_and_others_unchanged(tmp_path):
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


def test_the_number_of_cached_recordings_is_limited(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", [4000] * 5)
    reference = make_crops(tmp_path / "data")
    monkeypatch.setattr(crops_module, "CACHED_RECORDINGS", 2)
    crops = make_crops(tmp_path / "data")
    assert all(equal(crops[i], reference[i]) for i in range(60))
    assert len(crops._conditionings) == 2


def test_crops_are_slices_of_the_preemphasised_recording(folder):
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


def test_distinct_crops_do_not_overlap(folder):
    """They are where `locate_crop` has them as long as these do not overlap, and the first n of more are the same."""
    crops = make_crops(folder)
    places = crops.locate_distinct_crops(1000)
    frames = [(position, frame + i) for position, frame in places for i in range(crops.n_frames)]
    assert len(frames) == len(set(frames))
    assert crops.locate_distinct_crops(2) == places[:2] and places[0] == crops.locate_crop(0)
    # No recording has room for one more.
    for position, row in enumerate(crops.folder.rows):
        begins = sorted(frame for there, frame in places if there == position)
        edges = [0, *(frame + crops.n_frames for frame in begins)], [*begins, row.n_samples // HOP]
        assert all(end - begin < crops.n_frames for begin, end in zip(*edges, strict=True))


def test_frames_before_a_crop_may_overlap(tmp_path):
    """Only the scored half of each crop counts: there are more than fit side by side."""
    write_folder(tmp_path / "data", [8 * 50 * HOP])
    assert len(make_crops(tmp_path / "data", warmup_frames=50).locate_distinct_crops(9)) > 4


def test_recordings_shorter_than_a_crop_are_named(tmp_path):
    write_folder(tmp_path / "data", [400, 4000, 799, 100, 200, 800])
    words = make_crops(tmp_path / "data").describe_unused()
    assert "4 of 6 recordings, 0.4 s, not used: shorter than a crop of 0.2 s: 2004/\u00e9 2.wav (0.20 s), " in words
    assert words.endswith("2004/\u00e9 4.wav (0.05 s) and 1 more; lower data_config.segment_length to use them")
    assert "5 of 6" in make_crops(tmp_path / "data", warmup_frames=1).describe_unused()
    assert make_crops(tmp_path / "data", segment_length=0.02).describe_unused() == ""
