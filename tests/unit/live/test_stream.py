"""Live playing gives the samples of an offline generation of the same events, and generated samples stay."""

import numpy as np
import pytest

from midi2wave.checkpoint import LoadedCheckpoint
from midi2wave.live import stream as stream_module
from midi2wave.live.stream import LiveStream
from midi2wave.midi.performance import SUSTAIN
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.errors import InputError
from tests.helpers.synthesis_models import build, make_config

# Number of the block before which it happens -> what happens.
EVENTS = {
    0: [("press", 60, 90), ("press", 64, 50)],
    3: [("release", 60), ("press", 60, 127), ("press", 67, 1)],
    4: [("move_pedal", SUSTAIN, 127), ("release", 64)],
    9: [("release", 60), ("move_pedal", SUSTAIN, 40)],
    11: [("press", 67, 60), ("release", 67)],
    14: [("release_all",)],
}
N_BLOCKS = 20


def checkpoint(**data) -> LoadedCheckpoint:
    config = make_config(**data)
    return LoadedCheckpoint(build(config), config, 0, "")


def play(stream: LiveStream, events=EVENTS, n_blocks=N_BLOCKS) -> np.ndarray:
    blocks = []
    for number in range(n_blocks):
        for name, *arguments in events.get(number, ()):
            getattr(stream, name)(*arguments)
        blocks.append(stream.next_block())
    stream.close()
    assert all(block.dtype == np.int16 for block in blocks)
    return np.concatenate(blocks)


@pytest.mark.parametrize("sampler", ["torch", "numba"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_are_those_of_events_known_in_advance(sampler, guidance):
    loaded = checkpoint(conditioning_dropout=0.1)
    options = SamplingOptions(seed=3, temperature=0.9, guidance=guidance, sampler=sampler, threads=1)
    stream = LiveStream(loaded, options)
    assert stream.lead_frames == loaded.model.context_frames[1] > 0
    live = play(stream)
    n_frames = len(live) // stream.hop
    data = loaded.config.data_config
    blocks = synthesize(loaded.model, [stream.performance.snapshot()], n_frames, data, options, streams=[0])
    np.testing.assert_array_equal(live, np.concatenate(list(blocks), axis=1)[0])
    silent = play(LiveStream(loaded, options), events={})
    assert (silent != live).any()


@pytest.mark.parametrize("lead_frames", [None, 0])
def test_an_event_changes_nothing_before_it_takes_effect(lead_frames):
    loaded, options = checkpoint(), SamplingOptions(sampler="torch")
    stream = LiveStream(loaded, options, lead_frames=lead_frames)
    before = [stream.next_block() for _ in range(4)]
    first = stream.press(60, 100)
    assert first == (sum(map(len, before)) if lead_frames == 0 else sum(map(len, before)) + stream.lead_frames * 16)
    live = np.concatenate([*before, *(stream.next_block() for _ in range(6))])
    silent = play(LiveStream(loaded, options), events={}, n_blocks=10)
    n_generated = sum(map(len, before))
    np.testing.assert_array_equal(live[:n_generated], silent[:n_generated])
    assert (live[n_generated:] != silent[n_generated:]).any()


def test_events_of_a_block_cost_one_preparation(monkeypatch):
    """Each costs time that grows with the number of notes, and a chord with pedal has many."""
    stream, made = LiveStream(checkpoint(), SamplingOptions(sampler="torch")), []
    prepare = stream_module.conditioning_for
    monkeypatch.setattr(stream_module, "conditioning_for", lambda *args: made.append(args) or prepare(*args))
    stream.next_block()
    for pitch in range(50, 60):
        stream.press(pitch, 80)
    stream.move_pedal(SUSTAIN, 127)
    stream.next_block()
    stream.next_block()
    assert [len(performance.pitch) for performance, *_ in made] == [0, 10]


def test_a_stream_ends_after_its_longest_time(monkeypatch):
    monkeypatch.setattr(stream_module, "MAX_LIVE_SECONDS", 1)
    stream = LiveStream(checkpoint(), SamplingOptions(sampler="torch", block_frames=64))
    samples = []
    while stream.n_frames < stream.max_frames:
        samples.append(stream.next_block())
    assert sum(map(len, samples)) == 4000
    with pytest.raises(StopIteration):
        stream.next_block()


def test_global_labels_reach_the_model():
    loaded = checkpoint(global_values=["year=2008", "year=2009"])
    options = SamplingOptions(sampler="torch")
    sounds = [play(LiveStream(loaded, options, global_labels=(f"year={year}",)), n_blocks=4) for year in (2008, 2009)]
    assert (sounds[0] != sounds[1]).any()


def test_an_unconditional_model_is_refused():
    with pytest.raises(InputError, match="plays no MIDI"):
        LiveStream(checkpoint(features=[], excitation=False), SamplingOptions())
