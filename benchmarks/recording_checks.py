"""How many right pairs of audio and MIDI `finetune.py` refuses, and how many wrong ones it does not find.

    python -m benchmarks.recording_checks -d DISKLAVIER

Right pairs are those of a MAESTRO folder at 16 kHz; wrong ones are made of them, one of each kind from each pair. A
second table has the correlation of passages of some notes with their own sound, and with that of another piece.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from midi2wave.audio.io import read_pcm
from midi2wave.audio.pcm import FULL_SCALE, to_pcm
from midi2wave.data.maestro import read_metadata
from midi2wave.midi.performance import Performance
from midi2wave.midi.reader import Part, read_midi, read_parts
from midi2wave.recordings import pitch_matching
from midi2wave.recordings.levels import LevelMeter
from midi2wave.recordings.problems import ANALYSIS_HZ, Problem, check_contents
from midi2wave.utils.cli import run

MAX_SECONDS = 120.0
# Passages of each length in notes, and how many of a recording.
PASSAGE_NOTES = (16, 32, 64, 128)
N_PASSAGES = 4
SEED = 0


@dataclass(frozen=True)
class Take:
    """A recording, int16 [T] at ANALYSIS_HZ, and its notes, as a whole and by parts."""

    pcm: np.ndarray
    performance: Performance
    parts: list[Part]

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.pcm) / ANALYSIS_HZ

    def with_sound(self, amplitudes: np.ndarray) -> "Take":
        """The same notes with another sound, float [T]."""
        return replace(self, pcm=to_pcm(amplitudes)[0])

    def with_notes(self, change: Callable[[Performance], Performance]) -> "Take":
        """The same sound with changed notes."""
        parts = [replace(part, performance=change(part.performance)) for part in self.parts]
        parts = [part for part in parts if len(part.performance.onset)]
        return replace(self, performance=change(self.performance), parts=parts)


def main() -> int:
    """Check right and wrong pairs and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--dir", type=Path, required=True, help="recordings in the MAESTRO layout, 16 kHz")
    parser.add_argument("-n", "--n_pairs", type=int, help="only so many of them")
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    recordings = read_metadata(args.dir)
    takes = [read_take(args.dir / one.audio_filename, args.dir / one.midi_filename) for one in recordings]
    titles = [Path(one.midi_filename).stem.split("_ENST")[0] for one in recordings]
    tried: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    named: Counter[str] = Counter()
    for i in range(len(takes))[: args.n_pairs]:
        other = takes[int(rng.choice([j for j in range(len(takes)) if titles[j] != titles[i]]))]
        for kind, (make, word) in KINDS.items():
            problems = check(make(takes[i], other, rng))
            tried[kind] += 1
            refused[kind] += any(problem.is_fatal for problem in problems)
            named[kind] += any(word in problem.text for problem in problems) if word else not problems
    print("| pair | tried | refused | named rightly |\n|---|---|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {tried[kind]} | {refused[kind]} | {named[kind]} |")
    print("\n| notes | own sound: lowest, 1 %, median | another: median, 99 %, highest |\n|---|---|---|")
    for n_notes in PASSAGE_NOTES:
        right, wrong = passage_correlations(takes[: args.n_pairs], titles, n_notes, rng)
        cells = np.percentile(right, (0, 1, 50)), np.percentile(wrong, (50, 99, 100))
        print(f"| {n_notes} | {' | '.join(', '.join(f'{value:.2f}' for value in cell) for cell in cells)} |")
    return 0


def passage_correlations(
    takes: list[Take], titles: list[str], n_notes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`correlation_of_part` of passages of `n_notes`, of the right pairs and of the notes of other pieces."""
    own: list[float] = []
    other: list[float] = []
    for i, take in enumerate(takes):
        sound = pitch_matching.sound_spectrogram(take.pcm, ANALYSIS_HZ)
        match = pitch_matching.best_match(sound, pitch_matching.note_spectrogram(take.performance, take.seconds))
        lag = round(match.lag_seconds * pitch_matching.FRAME_HZ)
        j = int(rng.choice([k for k in range(len(takes)) if titles[k] != titles[i]]))
        for k, correlations in ((i, own), (j, other)):
            notes = cut(takes[k].performance, 0.0, take.seconds)
            if len(notes.onset) < n_notes:
                continue
            for first in rng.integers(0, len(notes.onset) - n_notes + 1, N_PASSAGES):
                selected = (np.arange(len(notes.onset)) >= first) & (np.arange(len(notes.onset)) < first + n_notes)
                part = select(notes, selected)
                correlations.append(pitch_matching.correlation_of_part(sound, part, take.seconds, lag))
    return np.array(own), np.array(other)


def read_take(audio: Path, midi: Path) -> Take:
    """The first MAX_SECONDS of a pair."""
    pcm = read_pcm(audio, ANALYSIS_HZ)[: round(MAX_SECONDS * ANALYSIS_HZ)]
    seconds = len(pcm) / ANALYSIS_HZ
    return Take(pcm, read_midi(midi), read_parts(midi)).with_notes(lambda notes: cut(notes, 0.0, seconds))


def check(take: Take) -> list[Problem]:
    """The problems of a pair."""
    meter = LevelMeter()
    meter.add(take.pcm[:, None])
    return check_contents(take.pcm, meter, take.performance, take.parts)[0]


def merge(first: Performance, second: Performance) -> Performance:
    """The notes of both, with the pedals of the first."""
    order = np.argsort(np.concatenate([first.onset, second.onset]), kind="stable")
    onset, offset, pitch, velocity = (
        np.concatenate([getattr(first, name), getattr(second, name)])[order]
        for name in ("onset", "offset", "pitch", "velocity")
    )
    return replace(first, onset=onset, offset=offset, pitch=pitch, velocity=velocity)


def select(performance: Performance, selected: np.ndarray) -> Performance:
    """Some of the notes."""
    columns = {name: getattr(performance, name)[selected] for name in ("onset", "offset", "pitch", "velocity")}
    return replace(performance, **columns)


def warp(performance: Performance, times: Callable[[np.ndarray], np.ndarray]) -> Performance:
    """The notes and pedals at other times."""
    pedals = {pedal: np.column_stack([times(rows[:, 0]), rows[:, 1]]) for pedal, rows in performance.pedals.items()}
    return replace(performance, onset=times(performance.onset), offset=times(performance.offset), pedals=pedals)


def cut(performance: Performance, start: float, end: float) -> Performance:
    """The notes that begin between two times, from the first of them on."""
    inside = (performance.onset >= start) & (performance.onset < end)
    return warp(select(performance, inside), lambda seconds: seconds - start)


def transpose(performance: Performance, semitones: int) -> Performance:
    """The notes at other pitches, without those outside the piano."""
    pitch = performance.pitch + semitones
    return select(replace(performance, pitch=pitch), (pitch >= 21) & (pitch <= 108))


def amplitudes(take: Take) -> np.ndarray:
    """The sound as float32 [T]."""
    return take.pcm.astype(np.float32) / FULL_SCALE


def excerpt(take: Take, _other: Take, rng: np.random.Generator) -> Take:
    """21 to 45 s of a right pair."""
    seconds = min(rng.uniform(21, 45), take.seconds)
    start = rng.uniform(0, take.seconds - seconds)
    samples = take.pcm[round(start * ANALYSIS_HZ) : round((start + seconds) * ANALYSIS_HZ)]
    return replace(take.with_notes(lambda notes: cut(notes, start, start + seconds)), pcm=samples)


def noisy(take: Take, _other: Take, rng: np.random.Generator) -> Take:
    """A right pair with white noise 15 dB below the sound."""
    sound = amplitudes(take)
    return take.with_sound(sound + rng.normal(0, 10 ** (-15 / 20) * sound.std(), len(sound)))


def performed_otherwise(take: Take, _other: Take, rng: np.random.Generator) -> Take:
    """The same notes with a tempo that varies by 8 % from one stretch of 8 s to the next."""
    knots = np.arange(0.0, 1.5 * take.seconds + 16, 8.0)
    moved = np.concatenate([[0.0], np.cumsum(np.diff(knots) * np.exp(rng.normal(0, 0.08, len(knots) - 1)))])
    return take.with_notes(lambda notes: warp(notes, lambda seconds: np.interp(seconds, knots, moved)))


def repeat_left_out(take: Take, _other: Take, rng: np.random.Generator) -> Take:
    """From somewhere in the middle on, the notes come 3 to 15 s late."""
    start, seconds = take.seconds * rng.uniform(0.3, 0.7), rng.uniform(3, 15)
    return take.with_notes(lambda notes: warp(notes, lambda times: np.where(times < start, times, times + seconds)))


def transposed(take: Take, _other: Take, rng: np.random.Generator) -> Take:
    """Notes an octave or some semitones off."""
    semitones = int(rng.choice([-24, -12, -12, -5, -1, 1, 2, 7, 12, 12]))
    return take.with_notes(lambda notes: transpose(notes, semitones))


def two_pianos(take: Take, other: Take, _rng: np.random.Generator) -> Take:
    """The sound of two recordings, equally loud, and the notes of one."""
    n = min(len(take.pcm), len(other.pcm))
    first, second = amplitudes(take)[:n], amplitudes(other)[:n]
    mixed = replace(take, pcm=take.pcm[:n]).with_sound((first + second * (first.std() / second.std())) / 2)
    return mixed.with_notes(lambda notes: cut(notes, 0.0, n / ANALYSIS_HZ))


def tempo(ratio: float) -> Callable[[Take, Take, np.random.Generator], Take]:
    """Notes at another tempo."""
    return lambda take, _other, _rng: take.with_notes(lambda notes: warp(notes, lambda seconds: seconds * ratio))


def clipped(take: Take, _other: Take, _rng: np.random.Generator) -> Take:
    """A sound whose peak is 6 dB above full scale."""
    sound = amplitudes(take)
    return take.with_sound(sound * (2 / np.abs(sound).max()))


def late(take: Take, _other: Take, rng: np.random.Generator) -> Take:
    """A sound that begins 3 s late."""
    return take.with_sound(np.concatenate([rng.normal(0, 1e-4, 3 * ANALYSIS_HZ), amplitudes(take)]))


# How each kind is made, and what its problem has to say; "" for none.
KINDS: dict[str, tuple[Callable[[Take, Take, np.random.Generator], Take], str]] = {
    "right": (lambda take, _other, _rng: take, ""),
    "right, 21 to 45 s": (excerpt, ""),
    "right, with noise 15 dB below the sound": (noisy, ""),
    "MIDI of another piece": (
        lambda take, other, _rng: replace(take, performance=other.performance, parts=other.parts),
        "not those of the sound",
    ),
    "MIDI of another performance of the piece": (performed_otherwise, "agree"),
    "MIDI with a repeat that was not played": (repeat_left_out, "do not agree"),
    "MIDI transposed": (transposed, "transpose the MIDI file by"),
    "MIDI 10 % faster": (tempo(1 / 1.1), "slower"),
    "MIDI 1 % slower": (tempo(1.01), "lag of the sound changes"),
    "MIDI 0.1 % slower": (tempo(1.001), "lag of the sound changes"),
    "MIDI 0.2 % slower": (tempo(1.002), "lag of the sound changes"),
    "audio at 44.1 kHz that claims 48 kHz": (
        lambda take, _other, _rng: take.with_sound(soxr.resample(amplitudes(take), 48000, 44100)),
        "sample rate",
    ),
    "audio 3 s late": (late, "this is corrected"),
    "MIDI of two pianos, in tracks": (
        lambda take, other, _rng: replace(
            take, parts=[*take.parts, *other.parts], performance=merge(take.performance, other.performance)
        ),
        "not in the sound",
    ),
    "audio of two pianos": (two_pianos, "only in part"),
    "MIDI of the first half only": (
        lambda take, _other, _rng: take.with_notes(lambda notes: cut(notes, 0.0, take.seconds / 2)),
        "goes on for",
    ),
    "clipped by 6 dB": (clipped, "clipped"),
    "40 dB too quiet": (lambda take, _other, _rng: take.with_sound(amplitudes(take) / 100), "very low"),
    "silent": (lambda take, _other, _rng: take.with_sound(amplitudes(take) * 0), "silent"),
}


if __name__ == "__main__":
    run(main)
