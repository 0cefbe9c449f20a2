"""When the followers of a thread group take part in sampling."""

from midi2wave.sampling.engines.cpu import (
    JUDGED_SAMPLES,
    MAX_REST_SAMPLES,
    MIN_REST_SAMPLES,
    FollowerPolicy,
)


def rest_after(policy: FollowerPolicy, n_common: int) -> int:
    """Note one judged block; returns for how many samples the followers rest."""
    policy.note(JUDGED_SAMPLES, n_common)
    rest = 0
    while not policy.take_part:
        policy.note(1024, 0)
        rest += 1024
    return rest


def test_followers_that_keep_up_take_part():
    policy = FollowerPolicy()
    assert [rest_after(policy, JUDGED_SAMPLES * 9 // 10) for _ in range(5)] == [0] * 5


def test_followers_without_a_core_rest_longer_and_longer():
    policy = FollowerPolicy()
    rests = [rest_after(policy, JUDGED_SAMPLES // 2) for _ in range(7)]
    assert rests[:3] == [MIN_REST_SAMPLES, 2 * MIN_REST_SAMPLES, 4 * MIN_REST_SAMPLES]
    assert rests[-1] == MAX_REST_SAMPLES
    assert rest_after(policy, JUDGED_SAMPLES) == 0
    assert rest_after(policy, 0) == MIN_REST_SAMPLES  # they kept up meanwhile


def test_a_decision_needs_enough_samples():
    """The first blocks are short, and followers are late for each of them."""
    policy = FollowerPolicy()
    policy.note(JUDGED_SAMPLES - 1, 0)
    assert policy.take_part
    policy.note(1, 0)
    assert not policy.take_part
