"""Global conditioning: what is known of a recording reaches every layer, on every way, and changes what is played."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import inference
import train
from midi2wave import checkpoint
from midi2wave.audio import io as audio_io
from midi2wave.audio.pcm import level_db
from midi2wave.conditioning.features import NULL_FEATURE, n_features
from midi2wave.conditioning.global_conditioning import default_labels, integer_columns, resolve_labels, validate_labels
from midi2wave.conditioning.note_conditioning import NullPerformance, conditioning_for
from midi2wave.config import (
    CondWavenetConfig,
    Config,
    DataConfig,
    TrainConfig,
    WavenetConfig,
    config_from_dict,
    load_config,
)
from midi2wave.data import processed_folder
from midi2wave.data.crops import CropAugmentation
from midi2wave.data.processed_folder import ProcessedFolder, Row
from midi2wave.data.test_clips import clip_paths, read_clip
from midi2wave.evaluation.likelihood import paired_likelihood
from midi2wave.evaluation.reverberation import measure_decay
from midi2wave.evaluation.synthesizer import Synthesizer
from midi2wave.midi.performance import PEDALS, Performance, clip, load_events, save_events
from midi2wave.sampling import synthesis
from midi2wave.sampling.engines import cuda
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.pieces import timed_pieces
from midi2wave.sampling.synthesis import conditioning, synthesize, teacher_forced, with_null
from midi2wave.training.log import TrainingLog
from midi2wave.training.run_state import create_or_resume_run
from midi2wave.training.validation import load_validation
from midi2wave.utils.errors import InputError
from nv_wavenet_bridge.export import conditioning_blocks
from tests.helpers.paths import SHARED
from tests.helpers.pipeline import HZ, assert_refused, call, read_files, settings, write_midi
from tests.helpers.processed_data import make_crops, write_folder
from tests.helpers.synthesis_models import CPU, N_FRAMES, OUTPUTS, make_pcm, make_performance
from wavenet import build_model

VALUES = ["year=2008", "year=2009"]
DISKLAVIER = SHARED / "data/disklavier-maestro-layout"


def make_config(output="logistic_mixture", upsampling="linear", n_mels=0, **data) -> Config:
    data = {"audio_hz": 4000, "global_values": VALUES, "conditioning_dropout": 0.1, "features": ["paper_v1"]} | data
    return Config(
        data_config=DataConfig(**data),
        wavenet_config=WavenetConfig(output=output, n_mixtures=2, n_layers=3, max_dilation=4, n_residual_channels=8,
                                     n_skip_channels=8, n_out_channels=8, n_cond_channels=8),
        cond_wavenet_config=CondWavenetConfig(n_layers=2, max_dilation=2, n_residual_channels=8, n_skip_channels=8,
                                              lookahead_ms=8.0, upsampling=upsampling, n_mels=n_mels),
        train_config=TrainConfig(output_directory="run", validation_crops=4),
    )  # fmt: skip


def make(*args, **data):
    """A model with global conditioning whose output is sensitive to what it is given, and its data config."""
    config = make_config(*args, **data)
    torch.manual_seed(0)
    model = build_model(config).eval()
    torch.nn.init.normal_(model.decoder.output.weight, std=0.3)
    torch.nn.init.normal_(model.context.global_embedding.weight, std=3.0)
    return model, config.data_config


def of(value: str, seed=0) -> Performance:
    return replace(make_performance(seed), global_labels=(value, "index=3") if value else ())


def play(model, data, performances, **options) -> np.ndarray:
    streams = [0] * len(performances)
    return np.concatenate(
        list(
            synthesize(model, performances, N_FRAMES, data, options=SamplingOptions(seed=5, **options), streams=streams)
        ),
        1,
    )


def test_the_rows_are_the_last_of_the_features_and_zero_for_what_is_unknown():
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
def test_every_layers_gate_hears_it(upsampling):
    model, data = make("logistic_mixture", upsampling)
    given = conditioning([of(value) for value in (*VALUES, "")], data, CPU)
    with torch.no_grad():
        # for the embedding alone to be heard, the stack itself is made deaf to it
        model.context.input.weight[:, -2:] = 0
        context, excitation = model.decoder.prepare(*given.block(model, 0, 2))
        for layer in model.decoder.layers:
            close, ambient, unknown = model.decoder.layer_conditioning(layer, context, excitation).unbind(dim=1)
            for other in (ambient, unknown):
                assert ((close - other).abs().amax(dim=0) > 1e-4).float().mean() > 0.9  # of the gate's channels
        model.context.global_embedding.weight.zero_()
        context, excitation = model.decoder.prepare(*given.block(model, 0, 2))
        assert torch.equal(context[:, 0], context[:, 1])


def test_the_auxiliary_head_hears_note_and_recording_together():
    """Not as a sum: what the year changes in its spectrum depends on the notes."""
    model, data = make("logistic_mixture", "linear", 4)
    with torch.no_grad():
        contexts = [conditioning([of(value, seed) for value in VALUES], data, CPU).block(model, 0, 3)[0]
                    for seed in (0, 1)]  # fmt: skip
        changes = [heard[0] - heard[1] for heard in map(model.mel_head, contexts)]
    assert min(change.abs().max() for change in changes) > 1e-3
    assert (changes[0] - changes[1]).abs().max() > 1e-4


@OUTPUTS
@pytest.mark.parametrize(("upsampling", "guidance"), [("linear", 1.0), ("transposed", 1.0), ("linear", 2.0)])
def test_every_engine_plays_it_and_the_parallel_pass_draws_it_again(output, upsampling, guidance):
    model, data = make(output, upsampling)
    pieces = [of(value) for value in VALUES]
    sounds = {sampler: play(model, data, pieces, sampler=sampler, guidance=guidance) for sampler in ("torch", "numba")}
    expected = sounds["torch"]
    assert np.mean(expected[0] != expected[1]) > 0.1
    again, _ = teacher_forced(
        model, pieces, expected, data, options=SamplingOptions(seed=5, guidance=guidance), streams=[0, 0]
    )
    given = conditioning(with_null(pieces, guidance), data, CPU)
    uniforms = synthesis.seeded_uniforms(5, [0, 0], model.uniforms_per_sample)
    on_cuda = torch.cat(
        list(cuda.generate(model, given, uniforms, 2, N_FRAMES, options=SamplingOptions(guidance=guidance))), dim=1
    )
    assert np.array_equal(synthesis.to_pcm(model, on_cuda, data), expected)
    for one in (again, sounds["numba"]):
        if output == "categorical":
            assert np.array_equal(one, expected)
        else:  # a sum in another order may move a 16-bit sample over a rounding edge
            assert np.mean(one != expected) < 0.02


def test_guidance_is_about_the_notes_only():
    model, data = make()
    none = play(model, data, [of("year=2008", 0), of("year=2008", 1), of("year=2009", 0)], guidance=0.0)
    assert np.array_equal(none[0], none[1]) and not np.array_equal(none[0], none[2])
    assert with_null([of("year=2008")], 2.0)[1:] == [NullPerformance(of("year=2008").global_labels)]


def test_pieces_without_notes_can_be_told_it_too(pipeline):
    data = make_config(audio_hz=HZ, global_values=["year=2004", "year=2009"]).data_config
    block = {"model_filename": "", "test_dir": f"{pipeline.folder}/test", "teacher_length": 0.04}
    for mode, given, expected in (
        ("free", [], ()),
        ("free", ["year=2009"], ("year=2009",)),
        ("prompted", [], ("year=2004",)),  # the clip's
        ("prompted", ["year=2009"], ("year=2009",)),
    ):
        made = {"inference_config": block | {"mode": mode, "global_values": given}}
        pieces, _ = timed_pieces(0.1, 2, config_from_dict(made, "it").inference_config, data)
        assert [piece.conditioning_source for piece in pieces] == [NullPerformance(expected)] * 2
    with pytest.raises(InputError, match="does not know 'year=2011'"):
        made = {"inference_config": block | {"mode": "free", "global_values": ["year=2011"]}}
        timed_pieces(0.1, 1, config_from_dict(made, "it").inference_config, data)


def test_what_is_exported_to_nv_wavenet_has_it():
    model, data = make("categorical")
    (block,) = conditioning_blocks(model, conditioning([of(value) for value in VALUES], data, CPU), 4)
    assert np.all(np.abs(block[:, 0] - block[:, 1]).max(axis=(0, 2)) > 1e-4)  # [2r, B, L, n]: in every layer


def test_the_likelihood_under_other_notes_is_of_the_same_recording():
    model, data = make()
    pcm, own = make_pcm(1, N_FRAMES)[0], of("year=2008")
    same, foreign = (paired_likelihood(model, pcm, own, of(value, 1), data)[0] for value in VALUES)
    assert same == foreign
    other, _ = paired_likelihood(model, pcm, of("year=2009"), of("year=2009", 1), data)
    assert all(getattr(other, name) != getattr(same, name) for name in ("true", "shuffled", "null"))


def test_events_and_clips_keep_it(tmp_path):
    for piece in (of("year=2008"), make_performance(0)):
        save_events(tmp_path / "a.npz", clip(piece, 0.0, 0.01))
        assert load_events(tmp_path / "a.npz").global_labels == piece.global_labels
    with np.load(tmp_path / "a.npz") as stored:
        assert "recording" not in stored  # files of what has none are as they were


def write_years(folder, years, lengths=(1700, 900)):
    """`write_folder` with these years and a column of its own."""
    write_folder(folder, list(lengths))
    path = folder / processed_folder.INDEX_NAME
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row, year in zip(rows, years, strict=True):
        row |= {"year": year, "piano": 3}
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_crops_say_what_recording_they_are_of(tmp_path):
    folder = write_years(tmp_path / "data", [2008, 2009])
    known = {"global_values": ["piano=3", *VALUES], "features": ["onset"]}
    for dropped in (0.0, 1.0):  # the null condition keeps it
        crops, plain = (
            make_crops(folder, augmentation=CropAugmentation(conditioning_dropout=dropped), **given)
            for given in (known, {"features": ["onset"]})
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


def test_recordings_whose_value_is_not_known_are_refused(tmp_path):
    folder = write_years(tmp_path / "data", [2008, 2011])
    for values, words in ((VALUES, "has year=2011, which is none of data_config.global_values"),
                          (["room=1"], "has no whole number in a column 'room'")):  # fmt: skip
        with pytest.raises(InputError, match=words) as refusal:
            make_crops(folder, global_values=values)
        assert "\n" not in str(refusal.value) and f"{folder}: 2004/é" in str(refusal.value)
        assert all(value in str(refusal.value) for value in values)
    make_crops(folder, global_values=["year=2008", "year=2011"])
    index = folder / processed_folder.INDEX_NAME
    index.write_text(index.read_text(encoding="utf-8").replace(",3\n", ",3,4\n"), encoding="utf-8")
    with pytest.raises(InputError, match="too many fields"):
        ProcessedFolder(folder)


def test_the_partner_of_a_validation_crop_lends_its_notes_only(tmp_path):
    config = make_config()
    config.data_config.validation_path = str(write_years(tmp_path / "data", [2008, 2009]))
    config.data_config.segment_length = 0.1
    found = load_validation(config, build_model(config))
    own, other = found.batch["features"], found.mismatched["features"]
    assert torch.equal(own[:, -2:], other[:, -2:]) and not torch.equal(own[:, :-2], other[:, :-2])
    assert len(own[:, -1, 0].unique()) == 2  # or the partners would have had the same


def test_texts_and_their_columns():
    row = {"index": "07", "year": " 2009", "title": "No. 3", "duration": 2.0, "n": -1, "long": "9" * 19, "none": None}
    assert integer_columns(row) == ("index=7", "year=2009", "n=-1")
    known = ["year=2008", "year=2009", "piano=1"]
    assert default_labels(known) == ("year=2008", "piano=1")
    assert resolve_labels(["index=3", "year=2008", "piano=1"], [], known) == ("year=2008", "piano=1")
    assert resolve_labels(["year=2008", "piano=1"], ["year=2009"], known) == ("year=2009", "piano=1")
    assert resolve_labels(["year=2004"], [], known) == ()
    validate_labels(["piano=1", "year=2009"], known)
    for given, among, words in (
        (["year=2011"], known, "does not know 'year=2011'; expected one of year=2008, year=2009, piano=1"),
        (["room=1"], known, "does not know 'room=1'; expected one of"),
        (["2009"], known, "does not know '2009'"),
        (["year=2008", "year=2009"], known, "expected one value of a column"),
        (["year=2008"], [], "has no input for year=2008: it was trained without"),
    ):
        with pytest.raises(InputError, match=words):
            validate_labels(given, among)


@pytest.mark.parametrize("values", ["year", "year=", "=3", "year=2008.0", "year=08", "y r=1"])
def test_impossible_values_in_a_config(values):
    with pytest.raises(InputError, match=r"data_config: global_values: .*expected COLUMN=VALUE"):
        config_from_dict({"data_config": {"global_values": values}}, "it")
    with pytest.raises(InputError, match="expected different ones"):
        config_from_dict({"data_config": {"global_values": ["a=1", "a=1"]}}, "it")


def test_an_unconditional_model_has_no_context_to_put_it_into():
    with pytest.raises(InputError, match="an unconditional model"):
        block = {"features": [], "excitation": False, "global_values": VALUES}
        config_from_dict({"data_config": block}, "it")


def test_it_shapes_the_model_and_comes_back_with_it(tmp_path):
    config = make_config()
    model = build_model(config)
    checkpoint.save(tmp_path, 3, model.state_dict(), {}, config, 1)
    there, theirs, _ = checkpoint.load_model(tmp_path, CPU)
    assert theirs.data_config.global_values == VALUES
    pieces = [of(value) for value in VALUES]
    assert np.array_equal(play(there, theirs.data_config, pieces), play(model.eval(), config.data_config, pieces))
    (wrong,) = checkpoint.differences(make_config(global_values=[]), config)
    assert wrong.startswith("data_config.global_values = [] instead of ['year=2008', 'year=2009']")


def test_a_checkpoint_from_before_is_the_same_model(tmp_path):
    """Without the keys in its config it loads, has no new weights, and plays as a model of today without values."""
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
    old, theirs, _ = checkpoint.load_model(path, CPU)
    assert theirs == config and not any("global_embedding" in name for name in tensors)
    assert np.array_equal(play(old, theirs.data_config, [of("year=2008")]), play(model, config.data_config, [of("")]))


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """The pipeline's run (the recordings are of 2004), but told years."""
    folder = tmp_path_factory.mktemp("run")
    known = settings('data_config.global_values=["year=2004", "year=2009"]', "train_config.learning_rate=0.1",
                     f"train_config.output_directory={folder}/run")  # fmt: skip
    made = call(train, "-c", pipeline.config, *known)
    assert made.code == 0, made.err
    return folder / "run"


def test_the_command_plays_the_year_it_is_told(pipeline, run, tmp_path):
    song = write_midi(tmp_path / "song.mid", [(0.0, 0.05, 60, 90)])
    data = checkpoint.load_weights(run)[1].data_config
    own = settings(f"inference_config.model_filename={run}", "inference_config.tail_seconds=0")
    arguments = ("-c", pipeline.config, *own, *settings(f"data_config.global_values={json.dumps(data.global_values)}"))
    sounds = {}
    for value in ("", "year=2004", "year=2009"):
        out, given = tmp_path / f"out{value}", ["--global", value] if value else []
        made = call(inference, *arguments, "--out", out, "--midi", song, *given)
        assert made.code == 0 and ("1 of 1 pieces have no label" in made.err) == (not value), made.err
        sounds[value] = audio_io.read_pcm(out / "song.wav", HZ)
        assert load_events(out / "song.npz").global_labels == ((value,) if value else ())
    assert all(np.mean(sounds[a] != sounds[b]) > 0.1 for a, b in (("", "year=2004"), ("year=2004", "year=2009")))

    set_so = settings("inference_config.global_values=year=2009", f"inference_config.output_dir={tmp_path}/set")
    assert call(inference, *arguments, *set_so, "--midi", song).code == 0
    assert np.array_equal(audio_io.read_pcm(tmp_path / "set/song.wav", HZ), sounds["year=2009"])
    assert_refused(
        call(inference, *arguments, *set_so, "--midi", song, "--global", "year=2004"), "results of another config"
    )

    for value, words in (("year=2011", "expected one of year=2004, year=2009"), ("piano=1", "does not know 'piano=1'")):
        for what in (["--midi", song], []):
            assert_refused(call(inference, *arguments, "--out", tmp_path / "no", *what, "--global", value), words)
    plain = call(inference, "-c", pipeline.config, "--out", tmp_path / "no", "--midi", song, "--global", "year=2004")
    assert_refused(plain, "has no input for year=2004", "trained without data_config.global_values")
    assert not (tmp_path / "no").exists()


def test_clips_carry_it_and_can_be_overruled(pipeline, run, tmp_path):
    assert [path for path in clip_paths(pipeline.folder / "test")
            if set(read_clip(path, HZ).performance.global_labels) != {"index=3", "year=2004"}] == []  # fmt: skip
    sounds = {}
    for value in ("", "year=2004", "year=2009"):
        own = settings(f"inference_config.model_filename={run}", f"inference_config.output_dir={tmp_path}/out{value}",
                       'data_config.global_values=["year=2004", "year=2009"]')  # fmt: skip
        made = call(inference, "-c", pipeline.config, *own, *(["--global", value] if value else []))
        assert made.code == 0 and "not told" not in made.err
        sounds[value] = {
            name: wav for name, wav in read_files(tmp_path / f"out{value}").items() if name.endswith("prompted.wav")
        }
    assert sounds[""] == sounds["year=2004"] and len(sounds[""]) == 2
    assert all(sounds[""][name] != sounds["year=2009"][name] for name in sounds[""])


def test_phrases_of_an_evaluation_are_of_the_first_value_or_the_one_set():
    model, data = make()
    options = {"model_filename": ""}
    for given, usual in (([], "year=2008"), (["year=2009"], "year=2009")):
        block = {"evaluate_config": options | {"global_values": given}}
        player = Synthesizer(model, data, config_from_dict(block, "it").evaluate_config)
        sounds = player([of(""), of("year=2008"), of("year=2009")], 0.1)
        assert np.array_equal(sounds[0], sounds[1]) == (usual == "year=2008")
        assert np.array_equal(sounds[0], sounds[2]) == (usual == "year=2009")


def test_the_preset_knows_every_year_of_its_recordings():
    known = load_config("real/config_train.json", ()).data_config.global_values
    assert known == ["year=2008", "year=2009"]
    if not DISKLAVIER.is_dir():
        pytest.skip("the real recordings are not here")
    with open(DISKLAVIER / "maestro-v1.0.0.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for split in ("train", "validation", "test"):
        assert {f"year={row['year']}" for row in rows if row["split"] == split} == set(known)


LOUDNESS, FADING = {2008: 0.1, 2009: 0.01}, {2008: 0.02, 2009: 0.15}
TOY_HZ = 4000


def toy_notes(rng, seconds) -> Performance:
    onset = np.arange(0.1, seconds - 0.5, 0.8) + rng.uniform(0, 0.1)
    n = len(onset)
    offset = onset + rng.uniform(0.15, 0.3, n)
    return Performance(onset, offset, np.full(n, 60), np.full(n, 80), {pedal: np.zeros((0, 2)) for pedal in PEDALS})


def learn(folder, sound, steps, **blocks):
    """Train a tiny model on recordings of two years, whose audio is `sound(performance, seconds, year, rng)`."""
    rng, rows, seconds = np.random.default_rng(0), [], 12.0
    processed_folder.begin_folder(folder / "train", {"preprocess_config": {"audio_hz": TOY_HZ}}, force=False)
    for index in range(6):
        performance, year = toy_notes(rng, seconds), 2008 + index % 2
        pcm = np.rint(32768 * sound(performance, seconds, year, rng)).clip(-32768, 32767).astype(np.int16)
        rows.append(Row(index, "", "", "train", year, seconds, len(pcm), len(performance.onset), "", ""))
        processed_folder.write_recording(folder / "train", rows[-1], pcm, performance)
    processed_folder.finish_folder(folder / "train", rows)
    config = {
        "train_config": {
            "output_directory": str(folder / "run"), "steps": steps, "batch_size": 8, "learning_rate": 1e-2,
            "final_learning_rate": 1e-3, "warmup_steps": 5, "ema_decay": 0.9, "history_dropout": 0.5,
            "iters_per_checkpoint": 10_000, "iters_per_sample": 0, "device": "cpu", "compile": False,
            "precision": "float32",
        },
        "data_config": {
            "dataset_path": str(folder / "train"), "audio_hz": TOY_HZ, "segment_length": 0.4, "n_workers": 0,
            "features": ["paper_v1"], "excitation": False, "global_values": VALUES,
        },
        "wavenet_config": {
            "n_mixtures": 1, "n_layers": 2, "max_dilation": 2, "n_residual_channels": 16, "n_skip_channels": 16,
            "n_out_channels": 16, "n_cond_channels": 16,
        },
        "cond_wavenet_config": {
            "n_layers": 2, "max_dilation": 2, "n_residual_channels": 16, "n_skip_channels": 16, "lookahead_ms": 4.0
        },
    }  # fmt: skip
    state = create_or_resume_run(
        config_from_dict({name: config[name] | blocks.get(name, {}) for name in config}, "toy"), force=False
    )
    log = TrainingLog(state.folder, 0)
    train.train(state, log)
    log.close()
    return state


def both_years(state, performance, seconds):
    """The same notes, freely played, of either year: int16 [2, T]."""
    pieces = [replace(performance, global_labels=(value,)) for value in VALUES]
    blocks = synthesize(
        state.ema_model,
        pieces,
        round(seconds * 250),
        state.config.data_config,
        options=SamplingOptions(seed=0),
        streams=[0, 0],
    )
    return np.concatenate(list(blocks), axis=1)


def test_a_model_learns_how_loud_each_year_is(tmp_path):
    def sound(performance, seconds, year, rng):
        return LOUDNESS[year] * rng.standard_normal(round(seconds * TOY_HZ))

    state = learn(tmp_path, sound, 200, train_config={"batch_size": 4}, data_config={"segment_length": 0.1})
    levels = [level_db(one) for one in both_years(state, toy_notes(np.random.default_rng(1), 1.0), 0.5)]
    assert levels[0] - levels[1] == pytest.approx(20, abs=8)


@pytest.mark.slow
def test_a_model_learns_how_long_a_note_rings_in_each_year(tmp_path):
    """The same notes ring on for longer in the room of 2009, though the room says nothing while they are held."""

    def sound(performance, seconds, year, rng):
        time = np.arange(round(seconds * TOY_HZ)) / TOY_HZ
        level = np.zeros(len(time))
        for on, off in zip(performance.onset, performance.offset, strict=True):
            level = np.maximum(level, (time >= on) * np.exp(-np.maximum(time - off, 0) / FADING[year]))
        return (0.1 * level + 0.0005) * rng.standard_normal(len(time))

    state = learn(tmp_path, sound, 250, data_config={"features": ["held_velocity", "release_age"]},
                  cond_wavenet_config={"n_layers": 3, "max_dilation": 4})  # fmt: skip
    piece = toy_notes(np.random.default_rng(9), 1.0)
    dry, wet = (measure_decay(one, TOY_HZ, piece.offset[0]) for one in both_years(state, piece, piece.offset[0] + 0.8))
    assert wet.db_per_second == pytest.approx(20 / np.log(10) / FADING[2009], rel=0.6)  # 58 dB/s
    assert dry.db_per_second > 3 * wet.db_per_second  # 434 dB/s
    assert wet.level_db > dry.level_db + 10
