"""The threads of the CPU engine: ends, failures, and threads that have no core."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from midi2wave.sampling.engines import cpu
from midi2wave.sampling.engines import cpu_threads as kernel
from midi2wave.sampling.engines.follower_policy import BlockTimes, FollowerPolicy
from midi2wave.sampling.options import SamplingOptions
from tests.helpers.sampler_models import HOP, N_FRAMES, concatenate, make_model, make_sources, with_null
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
            n_left = int(group.flags[size * kernel.FLAG_STRIDE + 1])
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


def test_a_lost_thread_is_not_waited_for(monkeypatch):
    """A block of live playing lasts 16 ms. The thread gets no other job before it has ended the first one."""
    begun, waited_for, resume, wait = [], [], threading.Event(), cpu.wait

    def play(_weights, _group, block, thread, _size):
        if thread:
            begun.append(block.start)
            resume.wait(30)

    def record_wait(jobs, **options):
        waited_for.append(len(jobs))
        return wait(jobs, **options)

    monkeypatch.setattr(cpu, "play", play)
    monkeypatch.setattr(cpu, "wait", record_wait)
    model = make_model()
    blocks = cpu.generate(model, *make_sources(model, 1), 1, 20, SamplingOptions(threads=2, block_frames=1))
    for _ in range(4):
        next(blocks)
    assert begun == [0] and waited_for == [1] * 4  # The first thread alone.
    resume.set()
    blocks.close()


def test_a_follower_stays_for_the_next_blocks(monkeypatch):
    """It returns to Python, whose lock others would wait for, only where no sample has come for long."""
    begun, ended = [], threading.Event()

    def play(weights, group, block, thread, size):
        begun.append(thread)
        kernel.play(weights, group, block, thread, size)
        if thread:
            ended.set()

    monkeypatch.setattr(cpu, "play", play)
    model = make_model()
    blocks = cpu.generate(model, *make_sources(model, 1), 1, 40, SamplingOptions(threads=2, block_frames=1))
    for _ in range(20):
        next(blocks)
    assert begun.count(0) == 20 and begun.count(1) < 5  # One, unless this process waited for its core between blocks.
    assert ended.wait(30)
    ended.clear()
    next(blocks)
    blocks.close()
    assert ended.is_set()  # It had begun again.


def test_a_follower_never_becomes_the_first_thread(monkeypatch):
    """It may have a core that other processes use."""
    threads = {0: set(), 1: set()}

    def play(_weights, _group, _block, thread, _size):
        threads[thread].add(threading.get_ident())
        time.sleep(0.001 * thread)

    monkeypatch.setattr(cpu, "play", play)
    model = make_model()
    concatenate(cpu.generate(model, *make_sources(model, 1), 1, 20, SamplingOptions(threads=2, block_frames=1)))
    assert len(threads[0]) == len(threads[1]) == 1 and threads[0] != threads[1]


def test_followers_have_no_jobs_where_they_make_a_group_slower(monkeypatch):
    """Their threads sleep until the next trial."""
    begun, policies, start = [], [], FollowerPolicy.__init__

    def remember(policy):
        start(policy)
        policies.append(policy)

    def timed_play(_weights, _group, block, thread, _size):
        if thread:
            begun.append(block.start)
        return BlockTimes(0.05 if policies[0].take_part else 0.04, 0.03)

    monkeypatch.setattr(FollowerPolicy, "__init__", remember)
    monkeypatch.setattr(cpu, "_timed_play", timed_play)
    model = make_model()
    concatenate(cpu.generate(model, *make_sources(model, 1), 1, 40, SamplingOptions(threads=2, block_frames=1)))
    # The first block and 0.1 s, then a trial of 0.2 s without followers, which wins, and 2 s until the next trial.
    assert 0 in begun and max(begun) <= 2 * HOP


@pytest.mark.parametrize(("output", "upsampling"), [("categorical", "linear"), ("logistic_mixture", "transposed")])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_trials_change_no_bit(monkeypatch, output, upsampling, guidance):
    """Blocks with and without followers, some of which are sampled in parts."""

    def change(policy, _n_samples, _times):
        policy.take_part, policy._is_trial = choices.integers(2), choices.integers(2)

    model = make_model(output, upsampling=upsampling)
    conditioning, uniforms = make_sources(model, 1)
    arguments = (model, with_null(conditioning) if guidance != 1 else conditioning, uniforms, 1, 300)
    expected = concatenate(cpu.generate(*arguments, SamplingOptions(threads=1, guidance=guidance)))
    choices = np.random.default_rng(0)
    monkeypatch.setattr(FollowerPolicy, "note", change)
    played = concatenate(cpu.generate(*arguments, SamplingOptions(threads=2, guidance=guidance)))
    assert torch.equal(played, expected)


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
            if len(jobs) == 1:  # the second thread
                raise KeyboardInterrupt
            jobs.append(super().submit(*job))
            return jobs[-1]

    monkeypatch.setattr(cpu, "ThreadPoolExecutor", Interrupted)
    model = make_model()
    blocks = cpu.generate(model, *make_sources(model, 1), 1, 300, options=SamplingOptions(threads=2))
    with pytest.raises(KeyboardInterrupt):
        next(blocks)
    assert len(jobs) == 1 and all(job.done() for job in jobs) and not sampler_threads()
