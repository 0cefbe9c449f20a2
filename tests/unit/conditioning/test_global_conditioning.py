"""Global conditioning: the labels of a recording reach every layer, in every engine, and are kept in files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from midi2wave import checkpoint
from midi2wave.conditioning.features import NULL_FEATURE, n_features
from midi2wave.conditioning.global_conditioning import default_labels, integer_columns, resolve_labels, validate_labels
from midi2wave.conditioning.note_conditioning import NullPerformance, conditioning_for
from midi2wave.config import (
    config_from_dict,
)
from midi2wave.data import processed_folder
from midi2wave.data.crops import CropAugmentation
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.evaluation.likelihood import paired_likelihood
from midi2wave.evaluation.synthesizer import Synthesizer
from midi2wave.midi.performance import clip, load_events, save_events
from midi2wave.sampling import synthesis
from midi2wave.sampling.engines import cuda
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.pieces import timed_pieces
from midi2wave.sampling.synthesis import conditioning, teacher_forced, with_null
from midi2wave.training.validation import load_validation
from midi2wave.utils.errors import InputError
from nv_wavenet_bridge.export import conditioning_blocks
from tests.helpers.global_models import VALUES, make, make_config, of, play, write_years
from tests.helpers.pipeline import HZ
from tests.helpers.processed_data import make_crops
from tests.helpers.synthesis_models import CPU, N_FRAMES, OUTPUTS, make_pcm, make_performance
from wavenet import build_model


def test_labels_are_the_last_rows_of_the_features():
    data = make_config().data_config
    f = n_features(data.features)
    for value, expected in (("year=2008", [1, 0]), ("year=2009", [0, 1]), ("year=2011", [0, 0]), ("", [0, 0])):
        rows = conditioning_for(of(value), data).features(-2, 5)
        assert rows.shape == (f + 2, 5) and rows.dtype == np.float32
        assert np.array_equal(rows[f:], np.repeat(np.array(expected)[:, None], 5, axis=1))
        plain = conditioning_for(of(value), replace(data, global_values=[])).features(-2, 5)
        assert np.array_equal(rows[:f], plain)
        null = conditioning_for(NullPerformance(of(value).global_labels), data).features(-2, 5)
        assert np.array_equal(null[f:], rows[f:]) and np.all(null[:f] == NULL_FEATURE)
    assert not conditioning_for(None, data).features(0, 1)[f:].any()


@pytest.mark.parametrize("upsampling", ["repeat", "linear", "transposed"])
def test_labels_reach_the_gate_of_every_layer(upsampling):
    model, data = make("logistic_mixture", upsampling)
    labelled = conditioning([of(value) for value in (*VALUES, "")], data, CPU)
    with torch.no_grad():
        # The stack itself ignores the labels, so that only the embedding has an effect.
        model.context.input.weight[:, -2:] = 0
        context, excitation = model.decoder.prepare(*labelled.block(model, 0, 2))
        for layer in model.decoder.layers:
            close, ambient, unknown = model.decoder.layer_conditioning(layer, context, excitation).unbind(dim=1)
            for other in (ambient, unknown):
                assert ((close - other).abs().amax(dim=0) > 1e-4).float().mean() > 0.9  # Of the gate's channels.
        model.context.global_embedding.weight.zero_()
        context, excitation = model.decoder.prepare(*labelled.block(model, 0, 2))
        assert torch.equal(context[:, 0], context[:, 1])


def test_the_auxiliary_head_depends_on_notes_and_labels_jointly():
    """Not as a sum: the effect of the year on its spectrum depends on the notes."""
    model, data = make("logistic_mixture", "linear", 4)
    with torch.no_grad():
        batches = [conditioning([of(value, seed) for value in VALUES], data, CPU) for seed in (0, 1)]
        spectra = [model.mel_head(batch.block(model, 0, 3)[0]) for batch in batches]
    first, second = (spectrum[0] - spectrum[1] for spectrum in spectra)
    assert min(first.abs().max(), second.abs().max()) > 1e-3
    assert (first - second).abs().max() > 1e-4


@OUTPUTS
@pytest.mark.parametrize(("upsampling", "guidance"), [("linear", 1.0), ("transposed", 1.0), ("linear", 2.0)])
def test_every_engine_and_the_parallel_pass_agree(output, upsampling, guidance):
    model, data = make(output, upsampling)
    pieces = [of(value) for value in VALUES]
    sounds = {sampler: play(model, data, pieces, sampler=sampler, guidance=guidance) for sampler in ("torch", "numba")}
    expected = sounds["torch"]
    assert np.mean(expected[0] != expected[1]) > 0.1
    again, _ = teacher_forced(
        model, pieces, expected, data, options=SamplingOptions(seed=5, guidance=guidance), streams=[0, 0]
    )
    inputs = conditioning(with_null(pieces, guidance), data, CPU)
    uniforms = synthesis.seeded_uniforms(5, [0, 0], model.uniforms_per_sample)
    on_cuda = torch.cat(
        list(cuda.generate(model, inputs, uniforms, 2, N_FRAMES, options=SamplingOptions(guidance=guidance))), dim=1
    )
    assert np.array_equal(synthesis.to_pcm(model, on_cuda, data), expected)
    for one in (again, sounds["numba"]):
        if output == "categorical":
            assert np.array_equal(one, expected)
        else:  # A sum in another order may move a 16-bit sample over a rounding edge.
            assert np.mean(one != expected) < 0.02


def test_guidance_keeps_the_labels():
    model, data = make()
    null = play(model, data, [of("year=2008", 0), of("year=2008", 1), of("year=2009", 0)], guidance=0.0)
    assert np.array_equal(null[0], null[1]) and not np.array_equal(null[0], null[2])
    assert with_null([of("year=2008")], 2.0)[1:] == [NullPerformance(of("year=2008").global_labels)]


def test_pieces_without_notes_have_labels(pipeline):
    data = make_config(audio_hz=HZ, global_values=["year=2004", "year=2009"]).data_config
    block = {"model_filename": "", "test_dir": f"{pipeline.folder}/test", "teacher_length": 0.04}
    for mode, labels, expected in (
        ("free", [], ()),
        ("free", ["year=2009"], ("year=2009",)),
        ("prompted", [], ("year=2004",)),  # That of the clip.
        ("prompted", ["year=2009"], ("year=2009",)),
    ):
        options = {"inference_config": block | {"mode": mode, "global_values": labels}}
        pieces, _ = timed_pieces(0.1, 2, config_from_dict(options, "it").inference_config, data)
        assert [piece.conditioning_source for piece in pieces] == [NullPerformance(expected)] * 2
    with pytest.raises(InputError, match="does not know 'year=2011'"):
        options = {"inference_config": block | {"mode": "free", "global_values": ["year=2011"]}}
        timed_pieces(0.1, 1, config_from_dict(options, "it").inference_config, data)


def test_the_export_to_nv_wavenet_has_labels():
    model, data = make("categorical")
    (block,) = conditioning_blocks(model, conditioning([of(value) for value in VALUES], data, CPU), 4)
    assert np.all(np.abs(block[:, 0] - block[:, 1]).max(axis=(0, 2)) > 1e-4)  # [2r, B, L, n]: in every layer.


def test_the_likelihood_with_other_notes_keeps_the_labels():
    model, data = make()
    pcm, own = make_pcm(1, N_FRAMES)[0], of("year=2008")
    same, foreign = (paired_likelihood(model, pcm, own, of(value, 1), data)[0] for value in VALUES)
    assert same == foreign
    other, _ = paired_likelihood(model, pcm, of("year=2009"), of("year=2009", 1), data)
    assert all(getattr(other, name) != getattr(same, name) for name in ("true", "shuffled", "null"))


def test_events_and_clips_keep_the_labels(tmp_path):
    for piece in (of("year=2008"), make_performance(0)):
        save_events(tmp_path / "a.npz", clip(piece, 0.0, 0.01))
        assert load_events(tmp_path / "a.npz").global_labels == piece.global_labels
    with np.load(tmp_path / "a.npz") as stored:
        assert "recording" not in stored  # The files of a performance without labels did not change.


def test_crops_have_the_labels_of_their_recording(tmp_path):
    folder = write_years(tmp_path / "data", [2008, 2009])
    labelled = {"global_values": ["piano=3", *VALUES], "features": ["onset"]}
    for dropout in (0.0, 1.0):  # The null condition keeps the labels.
        crops, plain = (
            make_crops(folder, augmentation=CropAugmentation(conditioning_dropout=dropout), **options)
            for options in (labelled, {"features": ["onset"]})
        )
        seen = set()
        for i in range(12):
            rows, position = crops[i]["features"], crops.locate_crop(i)[0]
            assert torch.equal(rows[:-3], plain[i]["features"])
            assert rows[-3:].unique(dim=1).flatten().tolist() == [1, 1 - position, position]
            seen.add(position)
        assert seen == {0, 1}
    performance = ProcessedFolder(folder).performance(1)
    assert {"index=1", "year=2009", "n_samples=900", "piano=3"} <= set(performance.global_labels)


def test_recordings_with_an_unlisted_label_are_refused(tmp_path):
    folder = write_years(tmp_path / "data", [2008, 2011])
    for values, words in (
        (VALUES, "has year=2011, which is none of data_config.global_values"),
        (["room=1"], "has no whole number in a column 'room'"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            make_crops(folder, global_values=values)
        assert "\n" not in str(refusal.value) and f"{folder}: 2004/é" in str(refusal.value)
        assert all(value in str(refusal.value) for value in values)
    make_crops(folder, global_values=["year=2008", "year=2011"])
    index = folder / processed_folder.INDEX_NAME
    index.write_text(index.read_text(encoding="utf-8").replace(",3\n", ",3,4\n"), encoding="utf-8")
    with pytest.raises(InputError, match="too many fields"):
        ProcessedFolder(folder)


def test_a_mismatched_validation_crop_keeps_its_labels(tmp_path):
    config = make_config()
    config.data_config.validation_path = str(write_years(tmp_path / "data", [2008, 2009]))
    config.data_config.segment_length = 0.1
    validation = load_validation(config, build_model(config))
    own, other = validation.batch["features"], validation.mismatched["features"]
    assert torch.equal(own[:, -2:], other[:, -2:]) and not torch.equal(own[:, :-2], other[:, :-2])
    assert len(own[:, -1, 0].unique()) == 2  # Otherwise the mismatched crops would have the same labels anyway.


def test_labels_and_their_columns():
    row = {"index": "07", "year": " 2009", "title": "No. 3", "duration": 2.0, "n": -1, "long": "9" * 19, "none": None}
    assert integer_columns(row) == ("index=7", "year=2009", "n=-1")
    global_values = ["year=2008", "year=2009", "piano=1"]
    assert default_labels(global_values) == ("year=2008", "piano=1")
    assert resolve_labels(["index=3", "year=2008", "piano=1"], [], global_values) == ("year=2008", "piano=1")
    assert resolve_labels(["year=2008", "piano=1"], ["year=2009"], global_values) == ("year=2009", "piano=1")
    assert resolve_labels(["year=2004"], [], global_values) == ()
    validate_labels(["piano=1", "year=2009"], global_values)
    for labels, values, words in (
        (["year=2011"], global_values, "does not know 'year=2011'; expected one of year=2008, year=2009, piano=1"),
        (["room=1"], global_values, "does not know 'room=1'; expected one of"),
        (["2009"], global_values, "does not know '2009'"),
        (["year=2008", "year=2009"], global_values, "expected one value of a column"),
        (["year=2008"], [], "has no input for year=2008: it was trained without"),
    ):
        with pytest.raises(InputError, match=words):
            validate_labels(labels, values)


@pytest.mark.parametrize("values", ["year", "year=", "=3", "year=2008.0", "year=08", "y r=1"])
def test_impossible_values_in_a_config(values):
    with pytest.raises(InputError, match=r"data_config: global_values: .*expected COLUMN=VALUE"):
        config_from_dict({"data_config": {"global_values": values}}, "it")
    with pytest.raises(InputError, match="expected different ones"):
        config_from_dict({"data_config": {"global_values": ["a=1", "a=1"]}}, "it")


def test_an_unconditional_model_has_no_labels():
    with pytest.raises(InputError, match="an unconditional model"):
        block = {"features": [], "excitation": False, "global_values": VALUES}
        config_from_dict({"data_config": block}, "it")


def test_labels_are_part_of_the_checkpoint(tmp_path):
    config = make_config()
    model = build_model(config)
    checkpoint.save(tmp_path, 3, model.state_dict(), {}, config, 1)
    loaded, loaded_config, _ = checkpoint.load_model(tmp_path, CPU)
    assert loaded_config.data_config.global_values == VALUES
    pieces = [of(value) for value in VALUES]
    assert np.array_equal(
        play(loaded, loaded_config.data_config, pieces), play(model.eval(), config.data_config, pieces)
    )
    (wrong,) = checkpoint.differences(make_config(global_values=[]), config)
    assert wrong.startswith("data_config.global_values = [] instead of ['year=2008', 'year=2009']")


def test_a_checkpoint_without_the_option_is_the_same_model(tmp_path):
    """It loads, has no embedding, and generates the same samples as a model without labels."""
    config = make_config(global_values=[])
    torch.manual_seed(0)
    model = build_model(config).eval()
    folder = checkpoint.save(tmp_path, 3, model.state_dict(), {}, config, 1)
    path = folder / checkpoint.WEIGHTS_NAME
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dictionary
    blocks = json.loads(metadata["config"])
    del blocks["data_config"]["global_values"]
    save_file(tensors, path, metadata | {"config": json.dumps(blocks)})
    old, old_config, _ = checkpoint.load_model(path, CPU)
    assert old_config == config and not any("global_embedding" in name for name in tensors)
    assert np.array_equal(
        play(old, old_config.data_config, [of("year=2008")]), play(model, config.data_config, [of("")])
    )


def test_phrases_of_an_evaluation_have_the_default_label():
    model, data = make()
    options = {"model_filename": ""}
    for labels, default in (([], "year=2008"), (["year=2009"], "year=2009")):
        block = {"evaluate_config": options | {"global_values": labels}}
        synthesizer = Synthesizer(model, data, config_from_dict(block, "it").evaluate_config)
        sounds = synthesizer([of(""), of("year=2008"), of("year=2009")], 0.1)
        assert np.array_equal(sounds[0], sounds[1]) == (default == "year=2008")
        assert np.array_equal(sounds[0], sounds[2]) == (default == "year=2009")
