"""The onsets of a piano's strokes by the phases of its strings (`align_labels.py`).

The partials of a key begin with the same phases at every stroke, relative to the hammer's: the phases of all keys and
the onset of each stroke are found in turns, until they agree (expectation and maximisation).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from midi2wave.audio.pcm import FULL_SCALE
from midi2wave.audio.pre_emphasis import emphasize
from midi2wave.conditioning.partials import PianoPartials, window_seconds
from midi2wave.config import DataConfig
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.midi.performance import LOWEST_PITCH, N_PITCHES, sounding_offset
from midi2wave.utils.cli import progress
from midi2wave.utils.errors import InputError

SKIPPED_SECONDS = 0.01  # after an onset: the hammer's noise
FLUX_SECONDS = 0.01  # by which the flux of a stroke (`alignment.py`) comes after its onset
LAG_SECONDS, N_LAGS, MOST_OFF_HZ = 0.04, 5, 4.0  # of the windows between which a partial's phase turns
HIGHEST = 0.43  # of the sampling rate: higher partials are not looked at
QUIETEST = 0.01  # of a key's loudest partial
LEAST_STROKES, SEEDS = 6, 40  # of a key; below it keeps its labels. Of which the first phases are made
SPREAD_SECONDS, SEARCH_SECONDS, STEP_SECONDS = 0.003, 0.012, 2.5e-5  # of what is left of the labels' error
BLOCK = 2000  # strokes at once: of 200 hours, one key's on the whole grid would take gigabytes
CANDIDATES = 16  # onsets of a stroke, a period apart, from which the best is chosen
LEAST_PARTIALS = 5  # below which there mostly is an onset that random phases fit, too
ENOUGH = 2.0  # of evidence (`_Key.evidence`): one in twenty of the strokes under another recording's MIDI has it
# A partial's weight is as in a von Mises distribution's likelihood, times this: their errors are not independent.
INDEPENDENCE = 0.4
LEAST_FIT, GOOD_FIT = 0.5, 0.8  # mean cosine of a stroke's phases against its key's: what is moved, what is relied upon
# Share of a recording's strokes with evidence enough, below which its MIDI is probably another's; of how many at least.
LEAST_SHARE, LEAST_JUDGED = 0.2, 10
ROUNDS, TURNS = 4, 4  # of measuring at the onsets found so far, of phases and onsets in turns
UNAMBIGUOUS_HZ = 230.0  # below, a period is longer than labels are off: these keys tell how labels are off in common


@dataclass(frozen=True)
class Strokes:
    """All notes of a folder, recording by recording: each array [N]."""

    recording: np.ndarray
    key: np.ndarray
    velocity: np.ndarray
    loudness: np.ndarray  # (velocity / 127) ** exponent
    label: np.ndarray  # seconds, plus what the recording's sound is late by
    seconds: np.ndarray  # how long it sounds
    rest: np.ndarray  # seconds for which the key was silent before


@dataclass(frozen=True)
class Piano:
    """What its partials are: each [88, 16]."""

    hz: np.ndarray
    decay: np.ndarray  # 1/s
    level: np.ndarray  # at velocity 127
    phasor: np.ndarray  # mean of exp(i phase) over strokes: 0 where nothing is known, 1 where all agree


def _strokes(folder: ProcessedFolder, exponent: float, flux: Sequence[float | None]) -> Strokes:
    """Those of a folder; `flux` as of `aligned`. Raises InputError if there are none."""
    columns = []
    for position, seconds in enumerate(flux):
        played = folder.performance(position)
        late = 0.0 if seconds is None else seconds - FLUX_SECONDS
        end, key = sounding_offset(played), played.pitch - LOWEST_PITCH
        rest = np.full(len(key), np.inf)
        for k in np.unique(key):
            same = np.flatnonzero(key == k)
            rest[same[1:]] = played.onset[same[1:]] - end[same[:-1]]
        loudness = (played.velocity / 127) ** exponent
        which = np.full(len(key), position)
        columns.append((which, key, played.velocity, loudness, played.onset + late, end - played.onset, rest))
    strokes = Strokes(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    if not len(strokes.key):
        raise InputError(f"{folder.path} has no notes: there is nothing to align")
    return strokes


def _partials(
    folder: ProcessedFolder, strokes: Strokes, onset: np.ndarray, hz: np.ndarray, preemphasis: float, lags: int = 1
) -> np.ndarray:
    """Complex amplitudes [lags, N, 16] of the partials in windows after the onsets, turned back to these."""
    found, rate = np.zeros((lags, len(onset), hz.shape[1]), dtype=np.complex128), folder.audio_hz
    lengths = np.rint(window_seconds(hz) * rate).astype(int)
    pad = rate  # of silence around a recording: strokes at its ends need no care
    for position in progress(range(len(folder.rows)), len(folder.rows), "recording"):
        sound = np.pad(emphasize(np.array(folder.pcm(position)), preemphasis) / FULL_SCALE, pad).astype(np.float32)
        here = np.flatnonzero(strokes.recording == position)
        for key in np.unique(strokes.key[here]):
            notes, length = here[strokes.key[here] == key], lengths[key]
            window = np.hanning(length) * 2 / np.hanning(length).sum()
            turning = np.exp(-2j * np.pi * np.outer(np.arange(length) / rate, hz[key])) * window[:, None]
            turning = turning.astype(np.complex64)
            for lag in range(lags):
                start = np.rint((onset[notes] + SKIPPED_SECONDS + lag * LAG_SECONDS) * rate).astype(int)
                at = np.clip(start + pad, 0, len(sound) - length)
                pieces = sound[at[:, None] + np.arange(length)]
                back = np.exp(-2j * np.pi * np.outer(start / rate - onset[notes], hz[key]))
                found[lag, notes] = (pieces @ turning) * back
    return found


def _clear(strokes: Strokes) -> np.ndarray:
    """Which strokes [N] are loud and long enough, of a key that was silent before."""
    loud = strokes.velocity >= np.median(strokes.velocity)
    return loud & (strokes.seconds > LAG_SECONDS * N_LAGS) & (strokes.rest > 0.1)


def _tuned(
    folder: ProcessedFolder, strokes: Strokes, data: DataConfig, strings: PianoPartials
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [88, 16] by how phases turn within strokes, whatever their labels; levels at velocity 127."""
    hz, clear = strings.hz.copy(), _clear(strokes)
    chosen = Strokes(*(column[clear] for column in vars(strokes).values()))
    for _ in range(2):
        found = _partials(folder, chosen, chosen.label, hz, data.preemphasis, N_LAGS)
        size = np.abs(found) + 1e-12
        turns = (found[1:] * found[:-1].conj() / (size[1:] + size[:-1])).sum(axis=0)  # [N, 16]
        sums = np.zeros(hz.shape, dtype=np.complex128)
        np.add.at(sums, chosen.key, turns)
        off = np.angle(sums) / (2 * np.pi * LAG_SECONDS)
        often = np.bincount(chosen.key, minlength=N_PITCHES) >= LEAST_STROKES
        hz += np.where(often[:, None] & (np.abs(off) < MOST_OFF_HZ) & (hz < HIGHEST * folder.audio_hz), off, 0.0)
    return hz, _levels(found[0], chosen)


def _levels(found: np.ndarray, strokes: Strokes) -> np.ndarray:
    """Medians of the amplitudes [N, 16] at velocity 127 of each key [88, 16]; of keys without strokes from those
    around."""
    keys = np.unique(strokes.key)
    if not len(keys):
        raise InputError("no key is struck loud and long enough: the data set is too small to be aligned")
    scaled = np.abs(found) / strokes.loudness[:, None]
    medians = np.stack([np.median(scaled[strokes.key == key], axis=0) for key in keys])
    logs = np.log(np.maximum(medians, 1e-12))
    return np.exp(np.stack([np.interp(range(N_PITCHES), keys, column) for column in logs.T], axis=1))


def _interference(strokes: Strokes, onset: np.ndarray, piano: Piano) -> np.ndarray:
    """Power of other notes' partials in each partial's window, relative to its own [N, 16]."""
    result, seconds = np.zeros((len(onset), piano.hz.shape[1])), window_seconds(piano.hz)
    start = onset + SKIPPED_SECONDS
    stop = start + seconds[strokes.key]
    for position in np.unique(strokes.recording):
        here = np.flatnonzero(strokes.recording == position)
        for i in here:
            key = strokes.key[i]
            others = here[(onset[here] < stop[i] - 0.01) & (onset[here] > start[i] - 4.0) & (here != i)]
            middle = (start[i] + stop[i]) / 2
            released = np.maximum(middle - onset[others] - strokes.seconds[others], 0.0)
            others, released = others[released < 0.3], released[released < 0.3]
            if not len(others):
                continue
            age = np.maximum(middle - onset[others], 0.0)[:, None]
            fading = np.exp(-piano.decay[strokes.key[others]] * age - released[:, None] / 0.05)
            within = np.clip((stop[i] - onset[others]) / seconds[key], 0.0, 1.0)
            amplitude = piano.level[strokes.key[others]] * fading * (strokes.loudness[others] * within)[:, None]
            lines = (piano.hz[strokes.key[others]].ravel() - piano.hz[key][:, None]) * seconds[key]
            power = (_hann_response(lines) ** 2) @ amplitude.ravel() ** 2
            result[i] = power / np.maximum((strokes.loudness[i] * piano.level[key]) ** 2, 1e-20)
    return result


def _hann_response(lines: np.ndarray) -> np.ndarray:
    """What a Hann window's spectrum is so many lines beside its middle; beyond its main lobe a bound."""
    x = np.abs(lines)
    inside = np.where(x < 2, x, 0.0)
    lobe = np.sinc(inside) / np.where(np.abs(1 - inside**2) < 1e-3, 1.0, 1 - inside**2)
    lobe = np.where(np.abs(1 - inside**2) < 1e-3, 0.5, np.abs(lobe))
    return np.where(x < 2, lobe, 0.02 / np.maximum(x / 2, 1.0) ** 3)


def _concentration(coherence: np.ndarray) -> np.ndarray:
    """The von Mises distribution's, from the length of the mean phasor (Fisher, Statistical Analysis of Circular Data,
    1993, section 4.5)."""
    r = np.clip(coherence, 1e-6, 0.995)
    low, middle, high = 2 * r + r**3 + 5 * r**5 / 6, -0.4 + 1.39 * r + 0.43 / (1 - r), 1 / (r**3 - 4 * r**2 + 3 * r)
    return np.where(r < 0.53, low, np.where(r < 0.85, middle, high))


def _of_one_weight(weights: np.ndarray) -> np.ndarray:
    """How many of one weight are as good as these [n, P]: [n]."""
    return weights.sum(axis=1) ** 2 / np.maximum((weights**2).sum(axis=1), 1e-20)


@dataclass(frozen=True)
class _Key:
    """The strokes of one key, and its P partials that can be heard."""

    unit: np.ndarray  # complex [n, P], phasors at the label that is expected
    likeness: np.ndarray  # [n, P], 1 where a partial is as loud as expected, towards 0 where it is not
    noise: np.ndarray  # [n, P], power of what else sounds
    hz: np.ndarray  # [P]

    def turned(self, shift: np.ndarray) -> np.ndarray:
        """Phasors at the onsets shifted by [n] seconds."""
        return self.unit * np.exp(2j * np.pi * np.outer(shift, self.hz))

    def weights(self, phasor: np.ndarray) -> np.ndarray:
        return INDEPENDENCE * self.likeness / (1 / _concentration(np.abs(phasor)) + self.noise)

    def evidence(self, phasor: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """What a fit [n] says: it times the root of how many partials of one weight would say as much; NaN where fewer
        than LEAST_PARTIALS would even if all were as loud as expected."""
        weights = self.weights(phasor)
        expected = _of_one_weight(weights / self.likeness)
        return np.where(expected < LEAST_PARTIALS, np.nan, fit * np.sqrt(_of_one_weight(weights)))

    def mean(self, shift: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """The phasor [P] of strokes aligned like this, by how well they fit."""
        weight = np.clip(2 * (fit - 0.4), 0.0, 1.0)[:, None] / (0.1 + self.noise)
        return (weight * self.turned(shift)).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)


def _seeded(key: _Key, clear: np.ndarray) -> np.ndarray:
    """First phasors [P] of a key: those of the stroke that agrees best with the others, with these aligned to it."""
    chosen = np.argsort(-clear * (1 / (0.1 + key.noise)).sum(axis=1), kind="stable")[:SEEDS]
    shifts = np.arange(-SEARCH_SECONDS, SEARCH_SECONDS, 2 * STEP_SECONDS)
    turning = np.exp(2j * np.pi * np.outer(key.hz, shifts))
    unit, weight, best = key.unit[chosen], 1 / (0.1 + key.noise[chosen]), None
    for i in range(len(chosen)):
        both = weight * weight[i] / (weight + weight[i])
        agreement = ((unit * unit[i].conj() * both) @ turning).real / both.sum(axis=1, keepdims=True)
        agreement -= shifts**2 / (2 * SEARCH_SECONDS**2 * len(key.hz))
        score = np.sort(agreement.max(axis=1))[-max(3, len(chosen) // 2) :].mean()
        if best is None or score > best[0]:
            best = score, shifts[agreement.argmax(axis=1)], np.maximum(agreement.max(axis=1) - LEAST_FIT, 1e-3)
    _, shift, trust = best
    shift = shift - (trust * shift).sum() / trust.sum()
    weight = weight * trust[:, None]
    return (weight * unit * np.exp(2j * np.pi * np.outer(shift, key.hz))).sum(axis=0) / weight.sum(axis=0)


def _best_shifts(key: _Key, phasor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest shift of each stroke, seconds [n], and how well its phases fit then [n]."""
    blocks = [slice(first, first + BLOCK) for first in range(0, len(key.unit), BLOCK)]
    parts = [replace(key, unit=key.unit[b], likeness=key.likeness[b], noise=key.noise[b]) for b in blocks]
    shifts, fits = zip(*(_shifts(part, phasor) for part in parts), strict=True)
    return np.concatenate(shifts), np.concatenate(fits)


def _shifts(key: _Key, phasor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_best_shifts`, of all strokes at once.

    The peaks of the likelihood on a grid are followed to their tops by Newton's steps before the best is chosen: the
    highest partials turn far from one point to the next.
    """
    weights, variance = key.weights(phasor), SPREAD_SECONDS**2
    pulls = key.unit * weights * phasor.conj() / np.maximum(np.abs(phasor), 1e-12)
    grid = np.arange(-SEARCH_SECONDS, SEARCH_SECONDS, STEP_SECONDS)
    likelihood = (pulls @ np.exp(2j * np.pi * np.outer(key.hz, grid))).real - grid**2 / (2 * variance)
    peak = (likelihood[:, 1:-1] >= likelihood[:, :-2]) & (likelihood[:, 1:-1] > likelihood[:, 2:])
    likelihood = np.where(peak, likelihood[:, 1:-1], -np.inf)
    shift = grid[1 + np.argsort(-likelihood, axis=1)[:, :CANDIDATES]]
    turn = 2 * np.pi * key.hz
    for _ in range(4):
        at = pulls[:, None] * np.exp(1j * shift[..., None] * turn)
        slope, curve = -(at.imag * turn).sum(-1) - shift / variance, (at.real * turn**2).sum(-1) + 1 / variance
        shift = shift + np.clip(np.where(curve > 0, slope / np.abs(curve), 0.0), -STEP_SECONDS, STEP_SECONDS)
    at = pulls[:, None] * np.exp(1j * shift[..., None] * turn)
    best = (at.real.sum(-1) - shift**2 / (2 * variance)).argmax(axis=1)
    rows = np.arange(len(shift))
    return shift[rows, best], at.real.sum(-1)[rows, best] / weights.sum(axis=1)


def piano_of(folder: ProcessedFolder, data: DataConfig, strings: PianoPartials) -> Piano:
    """The piano of a folder whose labels are aligned; keys with too few strokes have no phasors."""
    strokes = _strokes(folder, data.velocity_exponent, [None] * len(folder.rows))
    onset = strokes.label
    hz, level = _tuned(folder, strokes, data, strings)
    piano = Piano(hz, strings.decay, level, np.zeros(hz.shape, dtype=np.complex128))
    found = _partials(folder, strokes, onset, hz, data.preemphasis)[0]
    for number, _, partials, key in _keys(strokes, piano, found, _interference(strokes, onset, piano), folder.audio_hz):
        if len(key.unit) >= LEAST_STROKES:
            piano.phasor[number, partials] = key.mean(np.zeros(len(key.unit)), np.ones(len(key.unit)))
    return piano


def _keys(
    strokes: Strokes, piano: Piano, found: np.ndarray, noise: np.ndarray, audio_hz: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, _Key]]:
    """Yield each key that is struck and has partials enough: (its number, its notes [n], its partials [P], `_Key`)."""
    for number in np.unique(strokes.key):
        notes, level = np.flatnonzero(strokes.key == number), piano.level[number]
        heard = np.flatnonzero((piano.hz[number] < HIGHEST * audio_hz) & (level > QUIETEST * level.max()))
        if len(heard) < LEAST_PARTIALS:
            continue
        here = found[notes][:, heard]
        size = np.maximum(np.abs(here), 1e-12)
        louder = size / (strokes.loudness[notes, None] * level[heard])
        yield (
            number,
            notes,
            heard,
            _Key(here / size, 2 / (louder + 1 / louder), noise[notes][:, heard], piano.hz[number, heard]),
        )


def aligned(
    folder: ProcessedFolder,
    data: DataConfig,
    strings: PianoPartials,
    flux: Sequence[float | None],
    known: Piano | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Onsets of all notes of a folder [N], and the evidence that they are right [N] (ENOUGH is), or NaN.

    Keys with too few strokes or partials keep their labels, recordings of which hardly any note fits do so too.
    `flux`: seconds by which each recording's flux comes after its notes, None where that is not known
    (`alignment.trusted_seconds`); `known`: with these phases.
    """
    strokes = _strokes(folder, data.velocity_exponent, flux)
    if known is None:
        hz, level = _tuned(folder, strokes, data, strings)
        piano = Piano(hz, strings.decay, level, np.zeros(hz.shape, dtype=np.complex128))
    else:
        piano = known
    expected, fit, clear = strokes.label, np.zeros(len(strokes.label)), _clear(strokes) + 0.1
    evidence, onset, slope = np.full(len(fit), np.nan), expected, 0.0
    for _ in range(ROUNDS):
        found = _partials(folder, strokes, onset, piano.hz, data.preemphasis)[0]
        noise, new = _interference(strokes, onset, piano), expected.copy()
        for number, notes, partials, key in _keys(strokes, piano, found, noise, folder.audio_hz):
            phasor = piano.phasor[number, partials]
            if len(notes) < LEAST_STROKES if known is None else not phasor.any():
                continue
            key = replace(key, unit=key.turned(expected[notes] - onset[notes]))
            if not phasor.any():
                phasor = _seeded(key, clear[notes])
            shift, fit[notes] = _best_shifts(key, phasor)
            for _ in range(0 if known else TURNS - 1):
                phasor = key.mean(shift, fit[notes])
                middle = float(np.average(shift, weights=np.maximum(fit[notes], 1e-3)))
                phasor = phasor * np.exp(-2j * np.pi * key.hz * middle)  # labels are right on average
                shift, fit[notes] = _best_shifts(key, phasor)
            evidence[notes] = key.evidence(phasor, fit[notes])
            piano.phasor[number, partials] = phasor
            new[notes] += shift
        expected, slope = _expected(strokes, new, fit, piano, slope)
        onset = np.where(fit > LEAST_FIT, new, expected)
    for position in np.unique(strokes.recording):
        here = strokes.recording == position
        onset[here] = strokes.label[here] if hardly_fits(evidence[here]) else onset[here]
    return onset, evidence


def share_that_fits(evidence: np.ndarray) -> float:
    """Of the strokes [N] that can be judged; 0 if there are none."""
    return float((evidence > ENOUGH).sum() / max(1, np.isfinite(evidence).sum()))


def hardly_fits(evidence: np.ndarray) -> bool:
    """Whether a recording's strokes [N] can be judged, and are as under another recording's MIDI."""
    return np.isfinite(evidence).sum() >= LEAST_JUDGED and share_that_fits(evidence) < LEAST_SHARE


def _expected(
    strokes: Strokes, onset: np.ndarray, fit: np.ndarray, piano: Piano, slope: float
) -> tuple[np.ndarray, float]:
    """Labels [N] without what they are off by in each recording, and in proportion to velocity; seconds for each step
    of velocity."""
    good = fit > GOOD_FIT
    if (good & (piano.hz[strokes.key, 0] < UNAMBIGUOUS_HZ)).sum() > 100:
        good &= piano.hz[strokes.key, 0] < UNAMBIGUOUS_HZ
    off, n = onset - strokes.label, int(strokes.recording.max()) + 1
    count = np.bincount(strokes.recording[good], minlength=n)
    middle = np.bincount(strokes.recording[good], strokes.velocity[good], n) / np.maximum(count, 1)
    velocity = np.where(count[strokes.recording], strokes.velocity - middle[strokes.recording], 0.0)
    late = np.zeros(n)
    for _ in range(3):
        for position in np.unique(strokes.recording[good]):
            here = good & (strokes.recording == position)
            late[position] = np.median((off - slope * velocity)[here])
        spread = float((velocity[good] ** 2).sum())
        slope = float((velocity * (off - late[strokes.recording]))[good].sum() / spread) if spread else 0.0
    return strokes.label + late[strokes.recording] + slope * velocity, slope
