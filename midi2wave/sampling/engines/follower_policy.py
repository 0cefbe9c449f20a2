"""When the followers of a thread group take part in sampling: the choice between two ways by their measured speeds."""

import math
from typing import NamedTuple

# Followers take part where a group is so many times as fast with them.
MIN_GAIN = 1.05
# How long the other way is tried, with followers or without: busy cores make the speed of either way vary. The second
# one is for trials without, where followers surely help. A block of a trial without is sampled in parts.
TRIAL_SECONDS = 0.2
MIN_TRIAL_SECONDS = 0.015
N_TRIAL_PARTS = 4
# Seconds until the first thread is tried alone (not before `model_choice` has tried the model), and until it is tried
# with followers. They double after a trial that changed nothing, up to the last one here, but the time is at least so
# many times as long as the trial, since one block may last long.
FIRST_ALONE_TRIAL_AFTER = 0.1
FIRST_FOLLOWER_TRIAL_AFTER = 2.0
MAX_TRIAL_INTERVAL = 4.0
MIN_INTERVAL_TO_TRIAL = 8


class BlockTimes(NamedTuple):
    """How long a thread took for a block."""

    seconds: float  # by the clock
    cpu_seconds: float  # during which it had a core


class FollowerPolicy:
    """Decides from block to block whether the followers of a group take part: where that is faster.

    Where other processes use the cores it is not: followers are seldom there when they are needed, but take time from
    the first thread's core. Therefore the other way is tried periodically, the less often the more trials it has lost.
    Nothing is tried while the group with followers is faster than the first thread alone would be with a core of its
    own, which its CPU time tells.
    """

    def __init__(self) -> None:
        self.take_part = True  # in the next block
        self._is_trial = False
        self._is_first_block = True
        self._interval = FIRST_ALONE_TRIAL_AFTER
        # Samples per second, and per second of CPU time of the first thread alone.
        self._rate_with_followers = self._rate_alone = self._own_core_rate = math.inf
        self._start_measurement()

    @property
    def is_alone_trial(self) -> bool:
        """Whether the next block is of a trial without followers."""
        return self._is_trial and not self.take_part

    def note(self, n_samples: int, times: BlockTimes) -> None:
        """Note a block: how many samples it had, and how long the first thread took for them."""
        if self._is_first_block:  # Compiled code was loaded, too.
            self._is_first_block = False
            return
        self._n_samples += n_samples
        self._seconds += times.seconds
        self._cpu_seconds += min(times.cpu_seconds, times.seconds)  # Windows counts in units of 16 ms.
        if self.take_part:
            self._rate_with_followers = self._n_samples / self._seconds
        else:
            self._rate_alone = self._n_samples / self._seconds
            self._own_core_rate = self._n_samples / self._cpu_seconds if self._cpu_seconds else math.inf
        do_surely_help = self._rate_with_followers >= MIN_GAIN * self._own_core_rate
        trial_seconds = MIN_TRIAL_SECONDS if do_surely_help else TRIAL_SECONDS
        if self._seconds < (trial_seconds if self._is_trial else self._interval):
            return
        if self._is_trial:
            self._end_trial()
        elif self.take_part and do_surely_help:
            self._interval = FIRST_ALONE_TRIAL_AFTER
        else:
            self.take_part, self._is_trial = not self.take_part, True
        self._start_measurement()

    def _start_measurement(self) -> None:
        self._n_samples, self._seconds, self._cpu_seconds = 0, 0.0, 0.0

    def _end_trial(self) -> None:
        """Go on with the faster way."""
        was_tried, self.take_part = self.take_part, self._rate_with_followers >= MIN_GAIN * self._rate_alone
        self._is_trial = False
        if self.take_part == was_tried:
            self._interval = FIRST_ALONE_TRIAL_AFTER if self.take_part else FIRST_FOLLOWER_TRIAL_AFTER
        else:
            longer = min(2 * self._interval, MAX_TRIAL_INTERVAL)
            self._interval = max(longer, MIN_INTERVAL_TO_TRIAL * self._seconds)
