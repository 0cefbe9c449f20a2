"""When the followers of a thread group take part in sampling."""

import itertools
import math

import pytest

from midi2wave.sampling import model_choice
from midi2wave.sampling.engines import follower_policy
from midi2wave.sampling.engines.follower_policy import BlockTimes, FollowerPolicy

BLOCK = 1024
RATE = 50_000.0  # Samples per second of the first thread alone, on a core of its own.


class Machine:
    """Plays blocks as the policy says; speeds are relative to RATE, and may be changed."""

    def __init__(self, *, with_followers: float, alone: float = 1.0) -> None:
        self.policy = FollowerPolicy()
        self.speeds = {True: with_followers, False: alone}
        self.policy.note(BLOCK, BlockTimes(30.0, 20.0))  # The first block, in which code is compiled.

    def play(self, seconds: float) -> dict[bool, float]:
        """Play for so long; returns the seconds with followers and those without."""
        spent = {True: 0.0, False: 0.0}
        while sum(spent.values()) < seconds:
            way = self.policy.take_part
            duration = BLOCK / RATE / self.speeds[way]
            spent[way] += duration
            # With followers the first thread also waits for them. Alone it has a core for a part of the time.
            self.policy.note(BLOCK, BlockTimes(duration, duration if way else BLOCK / RATE))
        return spent


def test_followers_that_help_take_part_after_one_short_trial():
    machine = Machine(with_followers=1.4)
    assert machine.play(0.09)[False] == 0
    assert machine.play(60)[False] < follower_policy.MIN_TRIAL_SECONDS + BLOCK / RATE


@pytest.mark.parametrize(("with_followers", "alone"), [(0.5, 0.67), (1.0, 1.0), (0.1, 1.0), (1.04, 1.0)])
def test_followers_that_do_not_help_rest(with_followers, alone):
    """Beside busy processes; without a core; where a follower takes the first thread's; for a small model."""
    machine = Machine(with_followers=with_followers, alone=alone)
    assert machine.play(1)[True] < 0.1 + BLOCK / RATE / with_followers  # A block is not cut.
    later = machine.play(60)
    assert 0.02 < later[True] / 60 < 0.08
    speed = (with_followers * later[True] + alone * later[False]) / sum(later.values())
    assert speed > 0.93 * alone


def test_trials_become_rarer():
    machine = Machine(with_followers=0.8)
    machine.play(1)
    starts, time, before = [], 0.0, False
    while len(starts) < 4:
        time += sum(machine.play(0.01).values())
        if machine.policy.take_part and not before:
            starts.append(time)
        before = machine.policy.take_part
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps == pytest.approx([4.2, 4.2, 4.2], abs=0.2)  # The first interval is 2 s.
    assert starts[0] == pytest.approx(1.3, abs=0.2)


def test_followers_return_when_they_help_again():
    machine = Machine(with_followers=0.5, alone=0.7)
    machine.play(30)
    machine.speeds = {True: 1.5, False: 1.0}
    machine.play(follower_policy.MAX_TRIAL_INTERVAL + 0.1)
    assert machine.play(10)[False] < 0.1


def test_followers_leave_soon_when_other_processes_come():
    machine = Machine(with_followers=1.5)
    machine.play(30)
    machine.speeds = {True: 0.5, False: 0.67}
    assert machine.play(2)[True] < 0.3


def test_followers_stay_where_they_help_beside_other_processes():
    """The group is slower than the first thread alone on a core of its own, which it would not have."""
    machine = Machine(with_followers=0.9, alone=0.6)
    machine.play(1)
    assert machine.play(60)[False] < 4.5


def test_intervals_are_long_where_blocks_are():
    """One block lasts for a second alone, and twice that with followers."""
    machine = Machine(with_followers=0.5 / 50, alone=1 / 50)
    machine.play(5)
    assert machine.play(400)[True] < 0.15 * 400


def test_a_clock_of_cpu_time_that_stands_still_decides_nothing():
    policy = FollowerPolicy()
    for _ in range(2000):
        policy.note(BLOCK, BlockTimes(0.02 if policy.take_part else 0.03, 0.0))
    assert policy._own_core_rate == math.inf and policy.take_part


def test_models_are_chosen_before_the_first_trial():
    assert model_choice.TRIAL_SECONDS <= follower_policy.FIRST_ALONE_TRIAL_AFTER
