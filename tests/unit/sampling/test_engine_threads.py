"""The threads of the CPU engine: ends, failures, and threads that have no core."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from midi2wave.sampling.engines import cpu
from midi2wave.sampling.engines import cpu_threads as kernel
from midi2wave.sampling.options import SamplingOptions
from tests.helpers.sampler_models import N_FRAMES, concatenate, make_model, make_sources, with_null
from wavenet import Caches, Conditioning


def test_failing_thread_ends_the_others(monkeypatch):
    """A follower fails before its first sample: the other threads must stop."""

    def broken(weights, group, block, thread, size):
        if thread == 1:
            raise OSError("no memory for this thread")
        kernel.play(weights, group, block, thread, size)

    monkeypatch.setattr(cpu, "play", broken)
    model, caught = make_model(), []

    def run() -> None:
        try:
            concatenate(cpu.generate(model, *make_sources(model, 1), 1, 4, options=SamplingOptions(threads=2)))
        except OSError as error:
            caught.append(str(error))

    watched = threading.Thread(target=run, daemon=True)
    watched.start()
    watched.join(60)  # compiling is included
    assert not watched.is_alive() and caught == ["no memory for this thread"] and not sampler_threads()


def announce_and_vanish(weights, group, block, thread, size):
    """A follower that is ready when a block begins, and has lost its core when its first sample does."""
    if thread == 0:
        while group.flags[kernel.FLAG_STRIDE] != block.start * (weights.n_layers + 3) - 1:
            time.sleep(0.001)
        kernel.play(weights, group, block, thread, size)
    else:
        group.flags[thread * kernel.FLAG_STRIDE] = block.start * (weights.n_layers + 3) - 1


def never_begin(weights, group, block, thread, size):
    """A follower that never has a core."""
    if thread == 0:
        kernel.play(weights, group, block, thread, size)


def begin_late(weights, group, block, thread, size):
    """A follower that begins when the block is half over, or later."""
    half = 4 * (block.start + block.n_samples // 2)
    while thread != 0 and group.flags[size * kernel.FLAG_STRIDE] < half:
        time.sleep(0.0001)
    kernel.play(weights, group, block, thread, size)


@pytest.mark.parametrize("play", [announce_and_vanish, never_begin, begin_late])
@pytest.mark.parametrize(("output", "threads", "guidance"), [("categorical", 2, 1.0), ("logistic_mixture", 3, 2.0)])
def test_a_thread_without_a_core_changes_no_bit(monkeypatch, play, output, threads, guidance):
    """The first thread finishes alone what a follower that is not running leaves, and the samples stay the same."""
    model = make_model(output)
    conditioning, uniforms = make_sources(model, 1)
    arguments = (model, with_null(conditioning) if guidance != 1 else conditioning, uniforms, 1, N_FRAMES)
    expected = concatenate(cpu.generate(*arguments, SamplingOptions(threads=1, guidance=guidance)))
    monkeypatch.setattr(cpu, "play", play)
    played = concatenate(cpu.generate(*arguments, SamplingOptions(threads=threads, guidance=guidance)))
    assert torch.equal(played, expected)


# A wait takes as many rounds as last one sample, or where the processor's pause is long 14 samples.
SAMPLES_PER_WAIT = 14


def test_a_second_thread_that_is_stopped_for_a_second(monkeypatch):
    """In the middle of a sample: the first thread goes on, with 0.9 of its work for samples, and over the next blocks.

    A signal stops whole processes only. The second thread waits here until a second of audio has come without it.
    """
    model = make_model()
    conditioning, uniforms = make_sources(model, 1)
    arguments = model, conditioning, uniforms, 1, 500
    expected = concatenate(cpu.generate(*arguments, SamplingOptions(threads=1)))
    resume, counts, resumed_at = threading.Event(), [], []

    def play(weights, group, block, thread, size):
        if thread == 1 and not counts:
            group.flags[kernel.FLAG_STRIDE] = block.start * (weights.n_layers + 3) - 1
            if resume.wait(30):
                resumed_at.append(block.start)
            return
        while thread == 0 and not counts and group.flags[kernel.FLAG_STRIDE] == kernel.AWAY:
            time.sleep(0.0001)
        kernel.play(weights, group, block, thread, size)
        if thread == 0:
            n_left = int(group.flags[size * kernel.FLAG_STRIDE + 2])
            rounds = n_left * group.max_spins
            n_multiply_adds = sum(getattr(weights, name).size for name in ("chain", "past", "skip", "hidden", "output"))
            wait = SAMPLES_PER_WAIT * rounds * cpu.MULTIPLY_ADDS_PER_SPIN / n_multiply_adds
            counts.append((block.n_samples, n_left, wait))

    monkeypatch.setattr(cpu, "play", play)
    blocks = cpu.generate(*arguments, SamplingOptions(threads=2))
    played = []
    while sum(block.shape[1] for block in played) < 250 * model.hop:  # A second.
        played.append(next(blocks))
    assert not resumed_at
    n_samples, n_left, waits = map(sum, zip(*counts, strict=True))
    assert n_left == 1 and n_samples >= 0.9 * (n_samples + waits)
    resume.set()
    played += blocks
    assert resumed_at == [0] and torch.equal(torch.cat(played, dim=1), expected)


def test_a_lost_thread_is_waited_for_once(monkeypatch):
    """A block of live playing lasts 16 ms, of which a wait of 10 ms at each beginning would leave too little."""
    timeouts, resume, wait = [], threading.Event(), cpu.wait

    def play(_weights, _group, _block, thread, _size):
        if thread:
            resume.wait(30)

    def record_timeout(jobs, timeout=None, **options):
        if jobs and timeout is not None:
            timeouts.append(timeout)
        return wait(jobs, timeout, **options)

    monkeypatch.setattr(cpu, "play", play)
    monkeypatch.setattr(cpu, "wait", record_timeout)
    model = make_model()
    blocks = cpu.generate(model, *make_sources(model, 1), 1, 20, SamplingOptions(threads=2, block_frames=1))
    for _ in range(4):
        next(blocks)
    assert timeouts == [cpu.FOLLOWER_WAIT_SECONDS, 0, 0]
    resume.set()
    blocks.close()


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_waits_that_run_out_anywhere_change_no_bit(monkeypatch, threads, guidance):
    """The first thread gives up after any number of rounds, of followers that never nap and are often in the middle."""
    model = make_model(n_skip_channels=130)
    conditioning, uniforms = make_sources(model, 1)
    arguments = (model, with_null(conditioning) if guidance != 1 else conditioning, uniforms, 1, N_FRAMES)
    expected = concatenate(cpu.generate(*arguments, SamplingOptions(threads=1, guidance=guidance)))

    def play(max_spins, weights, group, block, thread, size):
        group = group._replace(max_spins=max_spins if thread == 0 else 1_000_000)
        kernel.play(weights, group, block, thread, size)

    for max_spins in (0, 3, 30, 300):
        monkeypatch.setattr(cpu, "play", functools.partial(play, max_spins))
        played = concatenate(cpu.generate(*arguments, SamplingOptions(threads=threads, guidance=guidance)))
        assert torch.equal(played, expected)


def test_conditioning_is_computed_on_one_thread():
    """PyTorch's threads spin after every operation; the number that the user set is left as it was."""
    model, n_threads, seen = make_model(), torch.get_num_threads(), []
    conditioning, uniforms = make_sources(model, 1)

    def features(first: int, n: int) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return conditioning.features(first, n)

    torch.set_num_threads(3)
    try:
        source = Conditioning(features, conditioning.excitation)
        concatenate(cpu.generate(model, source, uniforms, 1, 40, SamplingOptions(threads=1)))
        assert set(seen) == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_group_leaves_a_block_when_stopped(threads):
    model = make_model()
    conditioning, uniforms = make_sources(model, 1)
    with torch.inference_mode():
        groups = cpu._ThreadGroups(model, Caches(model.decoder, 1), SamplingOptions(threads=threads))
        inputs = cpu._ConditioningSource(model, conditioning).block(0, 4)
    draws = uniforms(0, 4 * model.hop).transpose(0, 1).numpy()
    groups.stop()
    own_samples, _ = groups.play(0, inputs, draws)
    groups.close()
    assert not own_samples.any()  # nothing was: silence is code 128


def sampler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sampler")]


def test_threads_end_with_the_generator():
    """Threads end with the generator however it ends."""
    model = make_model()
    conditioning, uniforms = make_sources(model, 1)
    blocks = cpu.generate(model, conditioning, uniforms, 1, 300, options=SamplingOptions(threads=2))
    next(blocks)
    assert sampler_threads()
    blocks.close()
    assert not sampler_threads()

    def broken(first: int, n: int) -> torch.Tensor:
        if first >= 7 * model.hop:
            raise KeyboardInterrupt
        return uniforms(first, n)

    with pytest.raises(KeyboardInterrupt):
        concatenate(cpu.generate(model, conditioning, broken, 1, 300, options=SamplingOptions(threads=2)))
    assert not sampler_threads()


def test_a_group_without_all_its_threads_is_stopped(monkeypatch):
    """The main thread may be interrupted after it has started one thread of a group and before the next."""
    jobs = []

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *job):
            if len(jobs) == 3:  # the second thread in the second block
                raise KeyboardInterrupt
            jobs.append(super().submit(*job))
            return jobs[-1]

    monkeypatch.setattr(cpu, "ThreadPoolExecutor", Interrupted)
    model = make_model()
    blocks = cpu.generate(model, *make_sources(model, 1), 1, 300, options=SamplingOptions(threads=2))
    next(blocks)
    with pytest.raises(KeyboardInterrupt):
        next(blocks)
    assert len(jobs) == 3 and all(job.done() for job in jobs) and not sampler_threads()
