"""A tolerant reader of Standard MIDI Files.

The reader keeps what can be kept of a damaged or unusual file and says what it left out (`Performance.dropped`).
Everything is one piano: notes and pedals of every track and channel except drums, since many files have the pedal on a
track without notes. Each channel has its own pedals, and the largest value counts (docs/midi.md). File format:
"Standard MIDI Files 1.0" (RP-001) of the MIDI Association.
"""

import contextlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from midi2wave.midi.keyboard import (
    DRUM_NOTES,
    DRUM_PEDALS,
    LOUD_NOTES,
    MAX_PITCH,
    MAX_VELOCITY,
    MIN_PITCH,
    OUTSIDE_NOTES,
    merge_onto_one_keyboard,
    merge_pedals,
)
from midi2wave.midi.performance import (
    ALL_SOUND_OFF,
    PEDALS,
    PEDALS_LIFTED_BY,
    SILENT_START_SECONDS,
    Performance,
    performance_from_events,
    silent_start,
)
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError
from midi2wave.utils.file_search import UnreadFiles

# Names of MIDI files end in one of these, in small or capital letters.
MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi", ".smf")
# Scores, which hold no performance.
SCORES = UnreadFiles(
    (".musicxml", ".mxl", ".mscz", ".mscx", ".krn", ".abc", ".ly", ".gp", ".gp3", ".gp4", ".gp5", ".gpx"),
    "scores",
    "export them as MIDI files",
)
_MAX_BYTES = 64 << 20
# Wrappers (RIFF, MacBinary) put their own header before the file proper.
_HEADER_SEARCH_BYTES = 4096
# "Channel 10" in General MIDI, which counts from 1.
_DRUM_CHANNEL = 9
# Microseconds per quarter note until the file says otherwise.
_DEFAULT_TEMPO = 500_000
# SMPTE frames per second; "29" means 29.97.
_FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30_000 / 1001, 30: 30.0}

# Status bytes of channel messages, whose low four bits are the channel.
_NOTE_OFF = 0x80
_NOTE_ON = 0x90
_KEY_PRESSURE = 0xA0
_CONTROL_CHANGE = 0xB0
_PROGRAM_CHANGE = 0xC0
_CHANNEL_PRESSURE = 0xD0
_PITCH_BEND = 0xE0
# Status bytes of messages without a channel.
_SYSTEM_EXCLUSIVE = (0xF0, 0xF7)
_META = 0xFF
# Data bytes of system common messages: they do not belong into files, but stray ones can be skipped.
_SYSTEM_COMMON_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}
_FIRST_REALTIME = 0xF8
# Controllers that release all keys of their channel (MIDI 1.0): all sound off, all notes off, changes of its mode.
_NOTES_OFF = (ALL_SOUND_OFF, *range(123, 128))
# The offset of a note while nothing has released it: after every tick.
_NEVER = 2**62
# Types of meta events.
_END_OF_TRACK = 0x2F
_SET_TEMPO = 0x51


@dataclass
class _Track:
    """The events of one track."""

    # (tick, status, pitch, velocity), and in the same order (tick, status, controller, 0) of those in _NOTES_OFF.
    notes: list[tuple[int, int, int, int]] = field(default_factory=list)
    # (tick, channel, controller, value) of the pedals and of what lifts them.
    pedals: list[tuple[int, int, int, int]] = field(default_factory=list)
    tempos: list[tuple[int, int]] = field(default_factory=list)  # (tick, microseconds per quarter note)
    programs: list[tuple[int, int, int]] = field(default_factory=list)  # (tick, channel, program)
    end_tick: int = 0
    is_complete: bool = False  # read up to its end-of-track mark

    def select(self, channel: int | None) -> "_Track":
        """The track with the notes of one channel only, or without notes."""
        return replace(self, notes=[note for note in self.notes if note[1] & 0x0F == channel])


@dataclass(frozen=True)
class Part:
    """The notes of one channel of one track.

    Attributes:
        track: Number of the track, from 0.
        channel: Number of the channel, from 0.
        program: General MIDI program, 0..127, at its first note; 0 if the file states none.
        performance: Its notes, and the pedals of the whole file.
    """

    track: int
    channel: int
    program: int
    performance: Performance


def read_midi(source: str | Path | BinaryIO) -> Performance:
    """Read MIDI of any type (0, 1, 2, RIFF-wrapped, SMPTE-timed), damaged or not, as one piano performance.

    Args:
        source: A file, or an object with the method `read` that gives its bytes.

    Raises:
        InputError: Nothing can be read: no such file, not MIDI, no usable time base, no piano notes.
    """
    path, division, sequences, tally = _read_sequences(source)
    notes, pedals = _all_in_seconds(sequences, division, tally)
    dropped = tuple(f"{what}: {count}" for what, count in tally.items() if count)
    return performance_from_events(notes, pedals, dropped, path)


def read_parts(source: str | Path | BinaryIO) -> list[Part]:
    """Read the notes of each track and channel by themselves, as `read_midi` reads all of them.

    Args:
        source: As of `read_midi`.

    Returns:
        The parts that have piano notes, each with all pedals; without the drums.

    Raises:
        InputError: As by `read_midi`.
    """
    path, division, sequences, _ = _read_sequences(source)
    channels = ((i, n[1] & 0x0F) for sequence in sequences for i, track in enumerate(sequence) for n in track.notes)
    parts = []
    for number, channel in sorted(set(channels)):
        own = [[track.select(channel if i == number else None) for i, track in enumerate(each)] for each in sequences]
        notes, pedals = _all_in_seconds(own, division, Counter())
        if len(notes):
            programs = [change for each in sequences for track in each for change in track.programs]
            first_tick = min(n[0] for each in own for track in each for n in track.notes)
            own_programs = sorted(p for p in programs if p[1] == channel and p[0] <= first_tick)
            program = own_programs[-1][2] if own_programs else 0
            parts.append(Part(number, channel, program, performance_from_events(notes, pedals, (), path)))
    return parts


def _read_sequences(source: str | Path | BinaryIO) -> tuple[str, int, list[list[_Track]], Counter[str]]:
    """Name, time division and tracks of a file, and what is missing; tracks of one list are played together."""
    path = source_name(source)
    data = _read_file(Path(source)) if isinstance(source, (str, os.PathLike)) else _read_object(source, path)
    _check_beginning(data, path)
    chunks = _chunks(data, data.find(b"MThd", 0, _HEADER_SEARCH_BYTES))
    _, start, _ = next(chunks, (b"", len(data), 0))
    file_type, n_tracks, division = _read_header(data[start : start + 6], path)
    tracks = [_read_track(data[start:end]) for name, start, end in chunks if name == b"MTrk"]
    if not tracks:
        raise InputError(f"{path}: a MIDI header without any track (MTrk) after it; get the file again")
    tally: Counter[str] = Counter()
    tally["tracks broken off or without an end mark, kept as far as readable"] = sum(not t.is_complete for t in tracks)
    tally["tracks promised by the header but missing"] = max(0, n_tracks - len(tracks))
    # The tracks of type 2 are played one after another, those of other types together.
    return path, division, [[track] for track in tracks] if file_type == 2 else [tracks], tally


def _all_in_seconds(sequences: list[list[_Track]], division: int, tally: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Notes and pedals of tracks that are played together, list after list, as `performance_from_events` takes them."""
    notes, pedals = [], []
    start_seconds = 0.0
    for sequence in sequences:
        sequence_notes, sequence_pedals, seconds = _in_seconds(sequence, division, tally)
        sequence_notes[:, :2] += start_seconds
        sequence_pedals[:, 0] += start_seconds
        notes.append(sequence_notes)
        pedals.append(sequence_pedals)
        start_seconds += seconds
    return np.concatenate(notes), np.concatenate(pedals)


def read_performance(source: str | Path | BinaryIO) -> Performance:
    """Read MIDI as `read_midi` does, and log what is left out, repaired or odd. Raises InputError."""
    performance = read_midi(source)
    for omission in performance.dropped:
        log(f"{source_name(source)}: {omission}")
    if performance.onset[0] > SILENT_START_SECONDS:
        log(f"{source_name(source)}: {silent_start(performance)}")
    return performance


def source_name(source: object) -> str:
    """What messages call a file or an object to read from."""
    return str(source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "MIDI data"))


def _read_file(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"{path}: not a file; give one MIDI file")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise InputError(f"{path}: {size >> 20} MB, but a MIDI file has at most {_MAX_BYTES >> 20} MB; check the path")
    return path.read_bytes()


def _read_object(source: BinaryIO, name: str) -> bytes:
    data = source.read(_MAX_BYTES + 1)
    if not isinstance(data, bytes):
        raise InputError(f"{name}: gives {type(data).__name__}, not bytes; open the file in binary mode, 'rb'")
    if len(data) > _MAX_BYTES:
        raise InputError(f"{name}: more than the {_MAX_BYTES >> 20} MB that a MIDI file has at most; check it")
    return data


def _check_beginning(data: bytes, path: str) -> None:
    if not data:
        raise InputError(f"{path}: empty file; get it again")
    if data.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a git-lfs pointer, not the MIDI file itself; run `git lfs pull` in its repository")
    if b"MThd" not in data[:_HEADER_SEARCH_BYTES]:
        raise InputError(f"{path}: not a MIDI file (no MThd header; it begins with {data[:4]!r}); give a MIDI file")


def _read_header(body: bytes, path: str) -> tuple[int, int, int]:
    """Type, number of tracks and time division as the header states them; the division is checked."""
    if len(body) < 6:
        raise InputError(f"{path}: cut off within the MIDI header; get the file again")
    file_type, n_tracks, division = (int.from_bytes(body[i : i + 2], "big") for i in (0, 2, 4))
    frame_rate, ticks = 256 - (division >> 8), division & 0xFF
    if not division or (division & 0x8000 and (frame_rate not in _FRAME_RATES or not ticks)):
        stated = f"{frame_rate} frames/s of {ticks} ticks" if division else "0 ticks per quarter note"
        raise InputError(f"{path}: its header gives no usable time base ({stated}); export the MIDI file again")
    return file_type, n_tracks, division


def _chunks(data: bytes, position: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the chunks from a position on.

    A length is believed only if a chunk or the end of the file follows. Where it is not, the chunk goes on to the next
    "MTrk", and so takes in bytes that are no chunk.
    """
    while len(data) - position >= 8:
        name, start = data[position : position + 4], position + 8
        end = start + int.from_bytes(data[position + 4 : start], "big")
        if end != len(data) and not data[end : end + 4].isalnum():
            end = data.find(b"MTrk", start)
            end = end if end >= 0 else len(data)
        yield name, start, end
        position = end


def _variable_length(body: bytes, position: int) -> tuple[int, int]:
    """A variable-length number and the position after it; ValueError if it goes on past the four bytes allowed."""
    value = 0
    for i in range(position, position + 4):
        byte = body[i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, i + 1
    raise ValueError("a variable-length number of more than four bytes")


def _read_track(body: bytes) -> _Track:
    """Note, pedal and tempo events of one track up to its end mark, the end of its bytes or the first damage."""
    track = _Track()
    position = running_status = 0
    # A truncated event runs past the end of the bytes; the events before it are kept.
    with contextlib.suppress(IndexError, ValueError):
        while position < len(body) and not track.is_complete:
            delta = body[position]
            position += 1
            if delta >= 0x80:
                delta, position = _variable_length(body, position - 1)
            tick = track.end_tick + delta
            status = body[position]
            if status < 0x80:
                status = running_status
            else:
                position += 1
            position = _read_event(body, position, status, tick, track)
            # Strictly, a meta event cancels running status too, but files rely on it not doing so.
            if status < _FIRST_REALTIME:
                running_status = status if status < 0xF0 else 0
            track.end_tick = tick
    return track


def _read_event(body: bytes, position: int, status: int, tick: int, track: _Track) -> int:
    """Add the event whose data bytes begin at a position to the track; returns the position after it.

    Raises IndexError or ValueError where the bytes are truncated or damaged.
    """
    kind = status & 0xF0
    if kind in (_NOTE_ON, _NOTE_OFF):
        pitch = body[position]
        if pitch > 127:
            raise ValueError("a status byte in the place of a pitch: the reader is out of step")
        track.notes.append((tick, status, pitch, body[position + 1]))
        return position + 2
    if kind == _CONTROL_CHANGE:
        controller, value = body[position], body[position + 1]
        if controller in PEDALS or controller in PEDALS_LIFTED_BY:
            track.pedals.append((tick, status & 0x0F, controller, min(value, 127)))
        if controller in _NOTES_OFF:
            track.notes.append((tick, status, controller, 0))
        return position + 2
    if kind in (_KEY_PRESSURE, _PITCH_BEND):
        return position + 2
    if kind in (_PROGRAM_CHANGE, _CHANNEL_PRESSURE):
        program = body[position]
        if kind == _PROGRAM_CHANGE:
            track.programs.append((tick, status & 0x0F, min(program, 127)))
        return position + 1
    if status < 0x80:
        raise ValueError("a data byte without a running status")
    return _read_system_event(body, position, status, tick, track)


def _read_system_event(body: bytes, position: int, status: int, tick: int, track: _Track) -> int:
    """As `_read_event`, for messages without a channel."""
    if status == _META:
        kind = body[position]
        length, position = _variable_length(body, position + 1)
        tempo = int.from_bytes(body[position : position + 3], "big")
        if kind == _END_OF_TRACK:
            track.is_complete = True
        elif kind == _SET_TEMPO and length == 3 and tempo and position + 3 <= len(body):
            track.tempos.append((tick, tempo))
        return position + length
    if status in _SYSTEM_EXCLUSIVE:
        length, position = _variable_length(body, position)
        return position + length
    return position + _SYSTEM_COMMON_BYTES.get(status, 0)


def _in_seconds(tracks: list[_Track], division: int, tally: Counter[str]) -> tuple[np.ndarray, np.ndarray, float]:
    """Tracks that are played together: notes and pedals as `performance_from_events` takes them, and their length."""
    tempos = [change for track in tracks for change in track.tempos]
    pedals = _merge_tracks_pedals(tracks, tally)
    pedals[:, 0] = _seconds(pedals[:, 0], tempos, division)

    notes_off = _ticks_of_notes_off(tracks)
    paired = np.concatenate([_pair_notes(track, notes_off, tally) for track in tracks])
    notes = merge_onto_one_keyboard(paired, tally).astype(np.float64)
    tally[LOUD_NOTES] += int(np.sum(notes[:, 3] > MAX_VELOCITY))
    notes[:, 3] = np.minimum(notes[:, 3], MAX_VELOCITY)
    notes[:, 0] = _seconds(notes[:, 0], tempos, division)
    notes[:, 1] = _seconds(notes[:, 1], tempos, division)
    end_tick = np.array([max(track.end_tick for track in tracks)])
    return notes, pedals, float(_seconds(end_tick, tempos, division)[0])


def _merge_tracks_pedals(tracks: list[_Track], tally: Counter[str]) -> np.ndarray:
    """The pedals of tracks that are played together, [K, 3] of (tick, controller, value)."""
    events = np.array([event for track in tracks for event in track.pedals], np.float64).reshape(-1, 4)
    is_drum = events[:, 1] == _DRUM_CHANNEL
    tally[DRUM_PEDALS] += int(np.isin(events[is_drum, 2], PEDALS).sum())
    events = events[~is_drum]
    return merge_pedals(events[np.argsort(events[:, 0], kind="stable")], PEDALS_LIFTED_BY)


def _ticks_of_notes_off(tracks: list[_Track]) -> dict[int, np.ndarray]:
    """For each channel the sorted ticks at which all its keys are released, on any track; the last one is _NEVER."""
    ticks: defaultdict[int, list[int]] = defaultdict(list)
    for tick, status, _, _ in itertools.chain.from_iterable(track.notes for track in tracks):
        if status & 0xF0 == _CONTROL_CHANGE:
            ticks[status & 0x0F].append(tick)
    return {channel: np.array([*sorted(each), _NEVER]) for channel, each in ticks.items()}


def _pair_notes(track: _Track, notes_off: dict[int, np.ndarray], tally: Counter[str]) -> np.ndarray:
    """Pair the note-ons and note-offs of one track, per channel: int64 [N, 4] of (onset, offset, pitch, velocity)."""
    notes: list[list[int]] = []
    sounding: dict[int, list[int]] = {}  # channel and pitch -> the note that has not been released
    restruck: dict[int, int] = {}  # channel and pitch -> tick of the latest note-on of a pitch that was sounding
    for tick, status, pitch, velocity in track.notes:
        if status & 0xF0 == _CONTROL_CHANGE:
            for channel_pitch in [key for key in sounding if key >> 7 == status & 0x0F]:
                sounding.pop(channel_pitch)[1] = tick
            continue
        is_on = status >= _NOTE_ON and velocity > 0
        if status & 0x0F == _DRUM_CHANNEL:
            tally[DRUM_NOTES] += is_on
            continue
        if not MIN_PITCH <= pitch <= MAX_PITCH:
            tally[OUTSIDE_NOTES] += is_on
            continue
        channel_pitch = (status & 0x0F) << 7 | pitch
        note = sounding.get(channel_pitch)
        if is_on:
            if note is not None:
                note[1] = tick
                restruck[channel_pitch] = tick
            sounding[channel_pitch] = [tick, tick, pitch, velocity, status & 0x0F]
            notes.append(sounding[channel_pitch])
        # A note-off in the tick of a restrike belongs to the note before it.
        elif note is not None and restruck.pop(channel_pitch, None) != tick:
            note[1] = tick
            del sounding[channel_pitch]
    for note in sounding.values():
        note[1] = _NEVER
    return _end_notes(np.array(notes, np.int64).reshape(-1, 5), notes_off, track.end_tick, tally)


def _end_notes(notes: np.ndarray, notes_off: dict[int, np.ndarray], end_tick: int, tally: Counter[str]) -> np.ndarray:
    """The notes of a track as [N, 4], from [N, 5] with their channels; other tracks may have released their keys."""
    for channel, ticks in notes_off.items():
        rows = np.flatnonzero(notes[:, 4] == channel)
        next_tick = ticks[np.searchsorted(ticks, notes[rows, 0], side="right")]
        notes[rows, 1] = np.minimum(notes[rows, 1], next_tick)
    is_open = notes[:, 1] == _NEVER
    notes[is_open, 1] = end_tick
    tally["notes never released, ended with their track"] += int(is_open.sum())
    return notes[:, :4]


def _seconds(ticks: np.ndarray, tempos: list[tuple[int, int]], division: int) -> np.ndarray:
    """Ticks [N] as seconds, by the tempo changes (tick, microseconds per quarter note) or by the SMPTE frame rate."""
    if division & 0x8000:
        return ticks / (_FRAME_RATES[256 - (division >> 8)] * (division & 0xFF))
    tempo_table = np.array(sorted([(0, _DEFAULT_TEMPO), *tempos], key=lambda change: change[0]), np.float64)
    change_tick, seconds_per_tick = tempo_table[:, 0], tempo_table[:, 1] * 1e-6 / division
    change_seconds = np.concatenate([[0.0], np.cumsum(np.diff(change_tick) * seconds_per_tick[:-1])])
    index = np.searchsorted(change_tick, ticks, side="right") - 1
    return change_seconds[index] + (ticks - change_tick[index]) * seconds_per_tick[index]
