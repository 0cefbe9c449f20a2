"""Piano performances: a tolerant reader of Standard MIDI Files, and what note and pedal events mean for the sound.

The reader keeps what can be kept of a damaged or unusual file and says what it left out (`Performance.dropped`).
Everything is one piano: notes of every track and channel except drums, and pedals from wherever they stand, since many
files hold the pedal on a track without notes. File format: "Standard MIDI Files 1.0" (RP-001) of the MIDI Association.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from midi2wave.midi.performance import HIGHEST_PITCH, LOWEST_PITCH, PEDALS, Performance
from midi2wave.utils.errors import InputError

_MAX_BYTES = 64 << 20
_HEADER_SEARCH_BYTES = 4096  # wrappers (RIFF, MacBinary) put their own header before the file proper
_DRUM_CHANNEL = 9  # "channel 10" in General MIDI, which counts from 1
_DEFAULT_TEMPO = 500_000  # microseconds per quarter note until the file says otherwise
_FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30_000 / 1001, 30: 30.0}  # SMPTE; "29" means 29.97
_SYSTEM_COMMON_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}  # these do not belong into files, but stray ones can be stepped over


class _Track(NamedTuple):
    keys: list[tuple[int, int, int, int]]  # (tick, status, pitch, velocity) of note-ons and note-offs
    pedals: list[tuple[int, int, int]]  # (tick, controller, value)
    tempos: list[tuple[int, int]]  # (tick, microseconds per quarter note)
    end_tick: int
    whole: bool  # read up to its end-of-track mark


def read_midi(path: str | Path) -> Performance:
    """Read a MIDI file of any type (0, 1, 2, RIFF-wrapped, SMPTE-timed), damaged or not, as one piano performance.

    Raises InputError if nothing can be read: no such file, not MIDI, no usable time base, no piano notes.
    """
    path = Path(path)
    data = _read_bytes(path)
    chunks = _chunks(data, data.find(b"MThd", 0, _HEADER_SEARCH_BYTES))
    _, start, _ = next(chunks, (b"", len(data), 0))
    file_type, promised, division = _header(data[start : start + 6], path)
    tracks = [_read_track(data[start:end]) for name, start, end in chunks if name == b"MTrk"]
    if not tracks:
        raise InputError(f"{path}: a MIDI header without any track (MTrk) after it; get the file again")

    tally: Counter[str] = Counter()
    tally["tracks broken off or without an end mark, kept as far as readable"] = sum(not t.whole for t in tracks)
    tally["tracks promised by the header but missing"] = max(0, promised - len(tracks))
    sequences = [[track] for track in tracks] if file_type == 2 else [tracks]
    notes, pedals, clock = [], [], 0.0
    for sequence in sequences:
        sequence_notes, sequence_pedals, seconds = _play(sequence, division, tally)
        sequence_notes[:, :2] += clock
        sequence_pedals[:, 0] += clock
        notes.append(sequence_notes)
        pedals.append(sequence_pedals)
        clock += seconds

    dropped = tuple(f"{what}: {count}" for what, count in tally.items() if count)
    return _performance(np.concatenate(notes), np.concatenate(pedals), dropped, path)


def _performance(notes: np.ndarray, pedals: np.ndarray, dropped: tuple[str, ...], path: Path) -> Performance:
    """Notes [N, 4] of (onset, offset, pitch, velocity) and pedals [K, 3] of (seconds, controller, value), in order."""
    if not len(notes):
        raise InputError(
            f"{path}: no piano notes (left out: {'; '.join(dropped) or 'nothing'}); "
            "give a MIDI file with notes between pitch 21 and 108 outside the drum channel"
        )
    notes = notes[np.lexsort((notes[:, 2], notes[:, 0]))]
    pedals = pedals[np.argsort(pedals[:, 0], kind="stable")]
    return Performance(
        onset=notes[:, 0].copy(),
        offset=notes[:, 1].copy(),
        pitch=notes[:, 2].astype(np.int64),
        velocity=notes[:, 3].astype(np.int64),
        pedals={controller: pedals[pedals[:, 1] == controller][:, [0, 2]] for controller in PEDALS},
        dropped=dropped,
    )


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"{path}: not a file; give one MIDI file")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise InputError(f"{path}: {size >> 20} MB, but a MIDI file has at most {_MAX_BYTES >> 20} MB; check the path")
    data = path.read_bytes()
    if not data:
        raise InputError(f"{path}: empty file; get it again")
    if data.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a git-lfs pointer, not the MIDI file itself; run `git lfs pull` in its repository")
    if b"MThd" not in data[:_HEADER_SEARCH_BYTES]:
        raise InputError(f"{path}: not a MIDI file (no MThd header; it begins with {data[:4]!r}); give a MIDI file")
    return data


def _header(body: bytes, path: Path) -> tuple[int, int, int]:
    """Type, promised number of tracks and the time division, which is checked."""
    if len(body) < 6:
        raise InputError(f"{path}: cut off within the MIDI header; get the file again")
    file_type, promised, division = (int.from_bytes(body[i : i + 2], "big") for i in (0, 2, 4))
    frame_rate, ticks = 256 - (division >> 8), division & 0xFF
    if not division or (division & 0x8000 and (frame_rate not in _FRAME_RATES or not ticks)):
        given = f"{frame_rate} frames/s of {ticks} ticks" if division else "0 ticks per quarter note"
        raise InputError(f"{path}: its header gives no usable time base ({given}); export the MIDI file again")
    return file_type, promised, division


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the chunks from `at` on; a length is believed only if a chunk or the end follows.

    Where it is not believed, the chunk goes on to the next "MTrk", and so takes in bytes that are no chunk.
    """
    while len(data) - at >= 8:
        name, start = data[at : at + 4], at + 8
        end = start + int.from_bytes(data[at + 4 : start], "big")
        if end != len(data) and not data[end : end + 4].isalnum():
            end = data.find(b"MTrk", start)
            end = end if end >= 0 else len(data)
        yield name, start, end
        at = end


def _variable_length(body: bytes, at: int) -> tuple[int, int]:
    """A variable-length number and the position behind it; ValueError if it goes on past the four bytes allowed."""
    value = 0
    for position in range(at, at + 4):
        byte = body[position]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + 1
    raise ValueError("a variable-length number of more than four bytes")


def _read_track(body: bytes) -> _Track:
    """Note, pedal and tempo events of one track up to its end mark, the end of its bytes or the first damage."""
    keys, pedals, tempos = [], [], []
    at = tick = running = 0
    whole = False
    # running off the end of the bytes is how a truncated event shows; what stands before it is kept
    with contextlib.suppress(IndexError, ValueError):
        while at < len(body):
            delta, at = (body[at], at + 1) if body[at] < 0x80 else _variable_length(body, at)
            now = tick + delta
            status = body[at]
            if status < 0x80:
                status = running
            else:
                at += 1
            kind = status & 0xF0
            if kind in (0x80, 0x90):
                pitch, velocity = body[at], body[at + 1]
                if pitch > 127:
                    break  # a status byte where a pitch belongs: out of step, what follows would be noise
                keys.append((now, status, pitch, velocity))
                at += 2
            elif kind in (0xA0, 0xB0, 0xE0):
                if kind == 0xB0 and body[at] in PEDALS:
                    pedals.append((now, body[at], body[at + 1]))
                at += 2
            elif kind in (0xC0, 0xD0):
                at += 1
            elif status == 0xFF:
                meta = body[at]
                length, at = _variable_length(body, at + 1)
                if meta == 0x2F:
                    tick, whole = now, True
                    break
                tempo = int.from_bytes(body[at : at + 3], "big")
                if meta == 0x51 and length == 3 and tempo and at + 3 <= len(body):
                    tempos.append((now, tempo))
                at += length
            elif status in (0xF0, 0xF7):
                length, at = _variable_length(body, at)
                at += length
            elif status > 0xF0:
                at += _SYSTEM_COMMON_BYTES.get(status, 0)
            else:
                break  # a data byte with no status to run on
            if status < 0xF8:  # strictly a meta event cancels running status too, but files rely on it not doing so
                running = status if status < 0xF0 else 0
            tick = now
    return _Track(keys, pedals, tempos, tick, whole)


def _play(tracks: list[_Track], division: int, tally: Counter[str]) -> tuple[np.ndarray, np.ndarray, float]:
    """Tracks that sound together as notes [N, 4], pedals [K, 3] (see `_performance`) and their length in seconds."""
    tempos = [change for track in tracks for change in track.tempos]
    pedals = np.array([event for track in tracks for event in track.pedals], np.float64).reshape(-1, 3)
    pedals[:, 0] = _seconds(pedals[:, 0], tempos, division)
    pedals[:, 2] = np.minimum(pedals[:, 2], 127)

    pressed = np.concatenate([_pair_keys(track, tally) for track in tracks])
    notes = _one_keyboard(pressed, tally).astype(np.float64)
    tally["velocities above 127, taken as 127"] += int(np.sum(notes[:, 3] > 127))
    notes[:, 3] = np.minimum(notes[:, 3], 127)
    notes[:, 0] = _seconds(notes[:, 0], tempos, division)
    notes[:, 1] = _seconds(notes[:, 1], tempos, division)
    end_tick = np.array([max(track.end_tick for track in tracks)])
    return notes, pedals, float(_seconds(end_tick, tempos, division)[0])


def _pair_keys(track: _Track, tally: Counter[str]) -> np.ndarray:
    """Pair the note-ons and note-offs of one track, per channel: int64 [N, 4] of (onset, offset, pitch, velocity)."""
    notes: list[list[int]] = []
    down: dict[int, list[int]] = {}  # channel and pitch -> the note that holds the key
    struck_again: dict[int, int] = {}  # channel and pitch -> tick of the latest note-on of a key already down
    for tick, status, pitch, velocity in track.keys:
        is_on = status >= 0x90 and velocity > 0
        if status & 0x0F == _DRUM_CHANNEL:
            tally["drum notes (channel 10)"] += is_on
            continue
        if not LOWEST_PITCH <= pitch <= HIGHEST_PITCH:
            tally["notes outside the piano (pitch 21..108)"] += is_on
            continue
        key = (status & 0x0F) << 7 | pitch
        note = down.get(key)
        if is_on:
            if note is not None:
                note[1] = tick
                struck_again[key] = tick
            down[key] = [tick, tick, pitch, velocity]
            notes.append(down[key])
        elif note is not None and struck_again.pop(key, None) != tick:
            note[1] = tick
            del down[key]
        # else: an off in the tick of a re-strike was meant for the note before, or nothing was down
    for note in down.values():
        note[1] = track.end_tick
    tally["notes never released, ended with their track"] += len(down)
    return np.array(notes, np.int64).reshape(-1, 4)


def _one_keyboard(notes: np.ndarray, tally: Counter[str]) -> np.ndarray:
    """Lay notes [N, 4] of all tracks and channels on one keyboard, where a key can be down only once at a time.

    Notes of one pitch and tick become one (larger velocity, later offset); a note ends where its key is struck again.
    """
    if not len(notes):
        return notes
    notes = notes[np.lexsort((notes[:, 0], notes[:, 2]))]
    fresh = np.ones(len(notes), bool)
    fresh[1:] = (np.diff(notes[:, 0]) != 0) | (np.diff(notes[:, 2]) != 0)
    merged = notes[fresh]
    merged[:, [1, 3]] = np.maximum.reduceat(notes[:, [1, 3]], np.flatnonzero(fresh), axis=0)
    same_key = np.flatnonzero(np.diff(merged[:, 2]) == 0)
    cut = same_key[merged[same_key, 1] > merged[same_key + 1, 0]]
    merged[cut, 1] = merged[cut + 1, 0]
    tally["notes doubled in one tick, merged"] += len(notes) - len(merged)
    tally["notes cut where another track or channel strikes their key"] += len(cut)
    return merged


def _seconds(ticks: np.ndarray, tempos: list[tuple[int, int]], division: int) -> np.ndarray:
    """Ticks [N] as seconds, by the tempo changes (tick, microseconds per quarter note) or by the SMPTE frame rate."""
    if division & 0x8000:
        return ticks / (_FRAME_RATES[256 - (division >> 8)] * (division & 0xFF))
    changes = np.array(sorted([(0, _DEFAULT_TEMPO), *tempos], key=lambda change: change[0]), np.float64)
    change_tick, seconds_per_tick = changes[:, 0], changes[:, 1] * 1e-6 / division
    change_seconds = np.concatenate([[0.0], np.cumsum(np.diff(change_tick) * seconds_per_tick[:-1])])
    index = np.searchsorted(change_tick, ticks, side="right") - 1
    return change_seconds[index] + (ticks - change_tick[index]) * seconds_per_tick[index]
