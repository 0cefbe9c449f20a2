"""Fold with overlap: parts that are generated side by side are what each would be alone, and meet without a step."""

import json
from dataclasses import replace

import numpy as np
import pytest

import inference
from midi2wave.audio import io as audio_io
from midi2wave.config import DataConfig, InferenceConfig
from midi2wave.midi.performance import Performance
from midi2wave.sampling import folding, render
from midi2wave.sampling.folding import Fold
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.errors import InputError
from tests.helpers.pipeline import HZ, assert_refused, call, modification_times, settings, write_midi
from tests.helpers.synthesis_models import HOP, make

DATA = DataConfig(audio_hz=4000, midi_hz=250)
N_FRAMES = 40


def fold_of(n_frames: int, receptive_field: int = 20, **overrides: float) -> Fold | None:
    return folding.plan_fold(n_frames, InferenceConfig(model_filename="", **overrides), DATA, receptive_field)


def make_notes() -> Performance:
    rng = np.random.default_rng(1)
    onset = np.sort(rng.uniform(0, 0.14, 20))
    return Performance(
        onset, onset + 0.03, rng.choice(np.arange(40, 90), 20, replace=False), rng.integers(30, 128, 20), {}
    )


def streams_of(model, data, fold: Fold, sampler: str = "numba") -> np.ndarray:
    n = len(fold.cuts)
    blocks = synthesize(
        model,
        [make_notes()] * n,
        fold.stream_frames,
        data,
        options=SamplingOptions(seed=5, sampler=sampler, threads=1),
        streams=[0] * n,
        first_frames=fold.begins,
    )
    return np.concatenate(list(blocks), axis=1)


# ---- the plan


def test_the_parts_cover_the_piece_and_their_neighbours():
    fold = fold_of(1000, fold_seconds=1, fold_overlap_seconds=0.1, fold_warmup_seconds=0.5)
    assert fold == Fold(1000, (0, 250, 500, 750), 125, 25)
    assert (fold.begins, fold.ends, fold.stream_frames) == ([0, 125, 375, 625], [275, 525, 775, 1000], 400)


@pytest.mark.parametrize(("n_frames", "n_parts"), [(1, 0), (250, 0), (275, 0), (276, 2), (525, 2), (526, 3)])
def test_short_pieces_are_not_folded(n_frames, n_parts):
    """Pieces no longer than a part and a cross-fade are not folded."""
    fold = fold_of(n_frames, fold_seconds=1, fold_overlap_seconds=0.1)
    assert (len(fold.cuts) if fold else 0) == n_parts
    assert fold is None or fold.cuts[-1] + fold.overlap < n_frames
    assert fold_of(n_frames) is None  # off by default


@pytest.mark.parametrize(("receptive_field", "frames"), [(1, 3), (48, 3), (49, 4), (4000, 250)])
def test_a_warm_up_is_never_shorter_than_the_receptive_field(receptive_field, frames):
    overrides = {"fold_seconds": 1, "fold_overlap_seconds": 0.1, "fold_warmup_seconds": 3 / 250}
    assert fold_of(1000, receptive_field, **overrides).warmup == frames


def test_cross_fades_longer_than_their_parts_are_refused():
    with pytest.raises(ValueError, match=r"fold_seconds = 0\.05: expected at least fold_overlap_seconds = 0\.1, or 0"):
        InferenceConfig(model_filename="", fold_seconds=0.05).check()
    InferenceConfig(model_filename="", fold_seconds=0.1).check()


# ---- cross-fades


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_cross_fade_weights_keep_the_power(correlation):
    """The weights keep the power of two sounds of that correlation."""
    fade_out, fade_in = folding.crossfade_weights(100, correlation)
    assert np.allclose(fade_out**2 + fade_in**2 + 2 * correlation * fade_out * fade_in, 1)
    assert (
        np.allclose(fade_out, fade_in[::-1])
        and np.all(np.diff(fade_in) > 0)
        and fade_in[0] < 0.02
        and fade_in[-1] > 0.98
    )
    if correlation == 1:
        assert np.allclose(fade_out + fade_in, 1)


def test_correlation_is_that_of_the_amplitudes():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(scale=3000, size=50_000).astype(np.int16) for _ in range(2))
    assert folding.correlation(a, a) == pytest.approx(1) and folding.correlation(a, b) < 0.02
    assert folding.correlation(a, (0.6 * a + 0.8 * b).astype(np.int16)) == pytest.approx(0.6, abs=0.02)
    assert folding.correlation(a, -a) == folding.correlation(a, 0 * a) == 0


def sines(fold: Fold, *, same: bool) -> np.ndarray:
    """Streams of one sine, or of noise of one level each."""
    rng, hop, rows = np.random.default_rng(0), HOP, []
    for begin in fold.begins:
        time = np.arange(begin * hop, (begin + fold.stream_frames) * hop)
        rows.append(8000 * np.sin(time / 10) if same else rng.normal(scale=3000, size=len(time)))
    return np.stack(rows).astype(np.int16)


def test_equal_parts_join_to_the_same_sound():
    """Parts that are equal where they overlap join to the same sound."""
    fold = fold_of(1000, fold_seconds=1, fold_overlap_seconds=0.1)
    piece, seam_correlations = folding.crossfade_parts(sines(fold, same=True), fold, HOP)
    assert piece.shape == (1000 * HOP,) and seam_correlations == pytest.approx([1, 1, 1])
    assert np.abs(piece - 8000 * np.sin(np.arange(1000 * HOP) / 10)).max() <= 2


def test_uncorrelated_seams_keep_their_level(monkeypatch):
    """Seams of uncorrelated sounds keep their level; those of a linear cross-fade would not."""
    fold = fold_of(5000, fold_seconds=1, fold_overlap_seconds=0.2)
    piece, seam_correlations = folding.crossfade_parts(sines(fold, same=False), fold, HOP)
    measured = folding.measure_seams(piece, fold, DATA, seam_correlations)
    assert [seam["seconds"] for seam in measured["seams"]] == list(range(1, 20))
    assert max(seam_correlations) < 0.15 and measured["seams"][0]["correlation"] == seam_correlations[0]
    assert abs(np.mean([seam["level_db"] for seam in measured["seams"]])) < 0.3 and abs(measured["elsewhere_db"]) < 0.2
    assert measured["elsewhere_low_db"] < measured["elsewhere_db"] < measured["elsewhere_high_db"]
    assert "19 seams, whose two sounds correlate by 0.0" in folding.format_seams(measured)

    monkeypatch.setattr(folding, "correlation", lambda *_: 1.0)
    linear = folding.measure_seams(
        *(lambda parts: (parts[0], fold, DATA, parts[1]))(folding.crossfade_parts(sines(fold, same=False), fold, HOP))
    )
    assert np.mean([seam["level_db"] for seam in linear["seams"]]) < -1.2
    assert abs(linear["elsewhere_db"]) < 0.2


def test_silence_has_no_level():
    fold = fold_of(1000, fold_seconds=1)
    measured = folding.measure_seams(np.zeros(1000 * HOP, np.int16), fold, DATA, [0.0] * 3)
    assert measured["elsewhere_db"] is None and [seam["level_db"] for seam in measured["seams"]] == [None] * 3
    assert json.loads(json.dumps(measured)) == measured and "too quiet" in folding.format_seams(measured)


# ---- parts of a model's making


@pytest.mark.parametrize("sampler", ["torch", "numba"])
@pytest.mark.parametrize("output", ["logistic_mixture", "categorical"])
@pytest.mark.parametrize("preemphasis", [0.0, 0.9])
def test_part_equals_generation_from_its_begin(output, sampler, preemphasis):
    """A part equals a generation that begins at the part's first frame."""
    model, data = make(output)
    data = replace(data, preemphasis=preemphasis)
    fold = Fold(N_FRAMES, (0, 16, 32), 5, 3)
    streams = streams_of(model, data, fold, sampler)
    piece, _ = folding.crossfade_parts(streams, fold, HOP)
    assert len(piece) == N_FRAMES * HOP
    for row, begin, cut, end in zip(streams, fold.begins, fold.cuts, fold.ends, strict=True):
        alone = np.concatenate(
            list(
                synthesize(
                    model,
                    [make_notes()],
                    end - begin,
                    data,
                    options=SamplingOptions(seed=5, sampler=sampler, threads=1),
                    streams=[0],
                    first_frames=[begin],
                )
            ),
            axis=1,
        )
        audible = slice((cut + fold.overlap * (cut > 0)) * HOP, (end - fold.overlap * (end < N_FRAMES)) * HOP)
        own = slice(audible.start - begin * HOP, audible.stop - begin * HOP)
        assert np.array_equal(piece[audible], row[own])
        if sampler == "numba" or output == "categorical":
            assert np.array_equal(row[: alone.shape[1]], alone[0])
        else:  # PyTorch's sums depend on the batch size, and may move a 16-bit sample over a rounding edge
            assert np.mean(np.abs(row[: alone.shape[1]].astype(int) - alone[0]) > 20) < 0.05


def test_parts_converge_with_shared_uniforms():
    """From some samples on, what began from silence in the middle is what has been played from the start."""
    model, data = make("logistic_mixture")
    whole, other = (
        np.concatenate(
            list(
                synthesize(
                    model, [make_notes()], N_FRAMES, data, options=SamplingOptions(seed=5, threads=1), streams=[i]
                )
            ),
            1,
        )[0]
        for i in range(2)
    )
    fold = Fold(N_FRAMES, (0, 16), 8, 4)
    streams = streams_of(model, data, fold)
    piece, seam_correlations = folding.crossfade_parts(streams, fold, HOP)
    assert not np.array_equal(streams[1, :8], whole[8 * HOP :][:8])  # not at once
    assert seam_correlations == [pytest.approx(1)] and np.mean(piece != whole) < 0.01
    assert folding.correlation(other, whole) < 0.9  # uniforms of its own would make it another


# ---- the command


FOLDED = settings(
    "inference_config.fold_seconds=0.1",
    "inference_config.fold_overlap_seconds=0.02",
    "inference_config.fold_warmup_seconds=0.02",
    "inference_config.tail_seconds=0",
)


@pytest.fixture
def songs(tmp_path):
    seconds = {"short": 0.12, "long": 0.35, "middle": 0.2}
    return [
        write_midi(tmp_path / f"{name}.mid", [(t, t + 0.01, 60, 90) for t in np.arange(0, end - 0.005, 0.01)])
        for name, end in seconds.items()
    ]


@pytest.mark.parametrize("sampler", ["torch", "numba"])
def test_long_pieces_are_folded_short_ones_are_not(pipeline, songs, tmp_path, sampler, monkeypatch):
    engine = (*settings(f"inference_config.sampler={sampler}", "inference_config.sampler_threads=1"), "--midi", *songs)
    batches, synthesize = [], render.synthesize

    def noted(model, performances, n_frames, *rest, **options):
        batches.append((n_frames, options["streams"], options["first_frames"]))
        return synthesize(model, performances, n_frames, *rest, **options)

    monkeypatch.setattr(render, "synthesize", noted)
    arguments = ("-c", pipeline.config, "--out", tmp_path / "folded", "--json", *FOLDED, *engine)
    done = call(inference, *arguments)
    assert done.code == 0 and done.result["wavs"] == ["short.wav", "long.wav", "middle.wav"]
    assert batches == [(30, [0], [0]), (30, [2] * 2, [0, 20]), (35, [1] * 4, [0, 20, 45, 70])]
    assert list(done.result["seams"]) == ["long", "middle"]
    assert [seam["seconds"] for seam in done.result["seams"]["long"]["seams"]] == [0.1, 0.2, 0.3]
    for name, frames in (("short", 30), ("long", 88), ("middle", 50)):
        assert len(audio_io.read_pcm(tmp_path / f"folded/{name}.wav", HZ)) == frames * HZ // 250

    # Alone, as in the folded call: in a larger batch PyTorch may round a tie otherwise.
    alone = (*engine[: -len(songs)], songs[0])
    assert call(inference, "-c", pipeline.config, "--out", tmp_path / "whole", *FOLDED[-2:], *alone).code == 0
    short, whole = (audio_io.read_pcm(tmp_path / folder / "short.wav", HZ) for folder in ("folded", "whole"))
    assert np.array_equal(short, whole)
    written = modification_times(tmp_path / "folded")
    again = call(inference, *arguments)
    assert again.result == done.result
    assert all(
        modification_times(tmp_path / "folded")[name] == written[name]
        for name in written
        if name != inference.PAGE_NAME
    )
    said = call(inference, *arguments[:4], *FOLDED, *engine).out
    assert "long: 3 seams, whose two sounds correlate by" in said and "3 were there already" in said
    assert_refused(call(inference, *arguments[:4], *FOLDED[-2:], *engine), "results of another config")


def test_clips_are_folded_in_mode_free(pipeline, tmp_path):
    overrides = settings(
        "inference_config.mode=free", "inference_config.fold_seconds=0.04", "inference_config.fold_overlap_seconds=0.01"
    )
    done = call(inference, "-c", pipeline.config, "--out", tmp_path / "out", "--json", *overrides)
    assert done.code == 0 and [len(measured["seams"]) for measured in done.result["seams"].values()] == [1, 1]


@pytest.mark.parametrize("mode", ["prompted", "teacher_forced"])
def test_prompted_pieces_are_not_folded(pipeline, songs, tmp_path, mode):
    arguments = ("-c", pipeline.config, "--out", tmp_path / "out", *FOLDED, *settings(f"inference_config.mode={mode}"))
    assert_refused(call(inference, *arguments), "fold_seconds", "in mode free")
    clip = next((pipeline.folder / "test").glob("*.wav"))
    assert_refused(call(inference, *arguments, "--midi", songs[1], "--prompt", clip), "fold_seconds", "--prompt")
    assert not (tmp_path / "out").exists()


def test_overlaps_that_do_not_fit_are_refused(pipeline, tmp_path):
    with pytest.raises(InputError, match="fold_overlap_seconds"):
        inference.load_config(pipeline.config, (), ["inference_config.fold_seconds=0.01"])
