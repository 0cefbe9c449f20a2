"""How a sound dies away once its keys are up and their dampers on the strings: the room, as far as it was recorded.

    python reverberation.py data/real/train --column year     # the recordings' own decays, by a column of filenames.csv

What of the sound is left over is the room's, more of it the further the microphones stood away. A recording shows it in
its pauses and at its end only. A generated phrase shows it by design: `counterfactual.py` compares the decays of the
same notes under each value of a model's global conditioning.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from audio import FULL_SCALE
from cli import parser, run
from errors import InputError
from global_values import columns
from midi import Performance, sounding_offset
from processed_folder import ProcessedFolder
from scores import level_db

STEP_SECONDS = 0.005
RANGE_DB = (5.0, 25.0)  # below its start the curve is as straight as rooms make it: T20 of ISO 3382-1
FLOOR_SHARE = 0.1  # the end of a tail, whose power is taken for the noise
BEFORE_SECONDS, AFTER_SECONDS = 0.2, (0.2, 0.7)  # whose levels are compared, from the release on
PAUSE_SECONDS = 0.8  # without any note; shorter ones show too little
AUDIBLE_DB = -55.0  # the level before a pause that lets its decay be seen above the noise


@dataclass(frozen=True)
class Decay:
    """How a sound dies away after a release; nan where it cannot be told."""

    db_per_second: float  # the slope of the decay: 60 / it is the reverberation time in seconds
    level_db: float  # level of 0.2 to 0.7 s after the release against the 0.2 s before it


def decay(pcm: np.ndarray, audio_hz: int, release: float) -> Decay:
    """Of int16 [T], in which nothing is played from `release` (seconds) to the end.

    The slope is that of the energy that is yet to come (Schroeder 1965) between 5 and 25 dB below its value at the
    release, without the noise's share: the mean power of the last tenth. So a tail that is longer than it lasts here
    (by less than 30 dB down at the end) looks shorter than it is.
    """
    tail = pcm[round(release * audio_hz) :] / FULL_SCALE
    step = round(STEP_SECONDS * audio_hz)
    power = np.square(tail[: len(tail) // step * step]).reshape(-1, step).mean(axis=1)
    noise = power[-max(1, round(FLOOR_SHARE * len(power))) :].mean() if len(power) else 0.0
    to_come = np.cumsum((power - noise)[::-1])[::-1]
    to_come = to_come[: np.argmin(np.append(to_come, -1.0) > 0)]  # beyond, noise alone
    fallen = -10 * np.log10(to_come / to_come[0]) if len(to_come) else np.empty(0)
    used = (fallen >= RANGE_DB[0]) & (fallen <= RANGE_DB[1])
    seen = len(fallen) > 0 and fallen.max() >= RANGE_DB[1]
    slope = np.polyfit(np.flatnonzero(used) * STEP_SECONDS, fallen[used], 1)[0] if seen and used.sum() > 2 else np.nan
    before = level_db(pcm[round((release - BEFORE_SECONDS) * audio_hz) : round(release * audio_hz)])
    after = level_db(pcm[slice(*(round((release + at) * audio_hz) for at in AFTER_SECONDS))])
    return Decay(float(slope), after - before)


def mean_decay(decays: Sequence[Decay]) -> Decay:
    """The mean of several, those left out that cannot be told."""
    values = np.array([(one.db_per_second, one.level_db) for one in decays]).reshape(-1, 2)
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(axis=0)
    return Decay(*(float(s / n) if n else float("nan") for s, n in zip(sums, known.sum(axis=0), strict=True)))


def pauses(performance: Performance, seconds: float) -> list[tuple[float, float]]:
    """The stretches of at least PAUSE_SECONDS between the fall of the last damper and the next onset, or the end."""
    ends = np.minimum(np.maximum.accumulate(sounding_offset(performance)), seconds)
    following = np.minimum(np.append(performance.onset[1:], seconds), seconds)
    found = zip(ends.tolist(), following.tolist(), strict=True)
    return [(end, onset) for end, onset in found if onset - end >= PAUSE_SECONDS and end > BEFORE_SECONDS]


def recorded_decays(folder: ProcessedFolder, column: str) -> Iterator[tuple[str, Decay]]:
    """The decay in each pause of a processed folder's recordings, with the recording's value in a column."""
    for position, recording in enumerate(folder.recordings):
        own = [value for value in recording if columns([value]) == (column,)]
        if not own:
            where = f"{folder.path}: {folder.rows[position].audio_filename}"
            raise InputError(f"{where} has no whole number in a column {column!r}; expected one of "
                             f"{', '.join(columns(recording))}")  # fmt: skip
        pcm, hz = folder.pcm(position), folder.audio_hz
        for release, end in pauses(folder.performance(position), len(pcm) / hz):
            first = round((release - BEFORE_SECONDS) * hz)
            piece = pcm[first : round(end * hz)]
            if level_db(piece[: round(BEFORE_SECONDS * hz)]) > AUDIBLE_DB:
                yield own[0], decay(piece, hz, BEFORE_SECONDS)


def main(argv: list[str] | None = None) -> int:
    """Print the mean decay for each value of a column; returns the exit code."""
    arguments = parser(__doc__)
    arguments.add_argument("folder", help="processed folder")
    arguments.add_argument("--column", default="year", help="integer column of its filenames.csv (default year)")
    args = arguments.parse_args(argv)
    by_value: dict[str, list[Decay]] = {}
    for value, one in recorded_decays(ProcessedFolder(args.folder), args.column):
        by_value.setdefault(value, []).append(one)
    means = {value: (len(found), mean_decay(found)) for value, found in sorted(by_value.items())}
    if args.as_json:
        numbers = {value: {"pauses": n, **asdict(mean)} for value, (n, mean) in means.items()}
        print(json.dumps(numbers).replace("NaN", "null"))
    for value, (n, mean) in means.items() if not args.as_json else ():
        print(f"{value}: {n} pauses, decay {mean.db_per_second:.1f} dB/s, level {mean.level_db:.1f} dB")
    return 0


if __name__ == "__main__":
    run(main)
