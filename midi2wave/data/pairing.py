"""Negative pairs: audio with MIDI that is not its own, for measures of what the conditioning is worth.

The MIDI is that of another recording; only where all items are of one recording, that of another part of it.
"""

from collections.abc import Hashable, Sequence


def mismatched_pairs(recordings: Sequence[Hashable]) -> list[int]:
    """For each item, choose another one whose conditioning does not belong to it.

    Args:
        recordings: The recording that each crop or clip was cut from; two or more items.

    Returns:
        For each item the index of the next item of another recording, cyclically; of the next item if there is only
        one recording.
    """
    n = len(recordings)
    pairs = []
    for i in range(n):
        following = [(i + k) % n for k in range(1, n)]
        pairs.append(next((k for k in following if recordings[k] != recordings[i]), following[0]))
    return pairs
