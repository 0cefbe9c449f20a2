"""Synthesizers: tinysoundfont, a package with wheels, FluidSynth, a program of the system, and the sampler.

All play labels in whole milliseconds at 64 samples a millisecond, so that every note sounds the same relative to its
label, to the sample. FluidSynth begins notes on blocks of 64 samples of its clock, one block after their label.
tinysoundfont begins them at any sample, exactly at their label, but updates envelopes only every 64 samples of a call.
The sampler (`sampler.py`) plays SFZ instruments and moves the attack of each sample to the label.
"""

import importlib.util
import io
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi2wave.data.sampled_instrument import SampledInstrument
from midi2wave.data.sampler import play_samples
from midi2wave.midi.keyboard import MAX_VELOCITY
from midi2wave.midi.performance import sounding_offset
from midi2wave.midi.reader import read_midi
from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    import tinysoundfont

RENDERERS = ("tinysoundfont", "fluidsynth")
TICKS_PER_SECOND = 1000
BLOCK = 64
AUDIO_HZ = BLOCK * TICKS_PER_SECOND
FRAME_BYTES = 2 * 4  # Of stereo float32.
SOUNDFONTS = ("sf2/FluidR3_GM.sf2", "sf3/MuseScore_General.sf3", "sf3/MuseScore_General_Lite.sf3", "sf2/default-GM.sf2")
SOUNDFONT_FOLDERS = ("/usr/share/sounds", "/usr/share/soundfonts", "/usr/local/share/soundfonts")
# A small General MIDI soundfont by Tim Brechbill, which pretty_midi ships.
SHIPPED_SOUNDFONT = "TimGM6mb.sf2"
INSTALL = {
    "tinysoundfont": "pip install --no-deps -r requirements-render.txt",
    "fluidsynth": "apt-get install fluidsynth fluid-soundfont-gm (macOS: brew install fluid-synth)",
}
# FluidSynth's amplitudes relative to those of tinysoundfont: 1.69 to 1.86, measured with two soundfonts and three keys.
TINYSOUNDFONT_LEVEL = 1.8
# A note decays in blocks of this length after its damper has fallen.
RELEASE_BLOCK = 250 * BLOCK


@dataclass(frozen=True)
class Instrument:
    """What plays.

    Attributes:
        renderer: "fluidsynth" or "tinysoundfont".
        soundfont: An .sf2 or .sf3 file.
        program: General MIDI program, 0..127.
        gain: Linear, the same for all notes.
        effects: Whether FluidSynth's reverb and chorus are on.
    """

    renderer: str
    soundfont: Path
    program: int
    gain: float
    effects: bool


def is_installed(renderer: str) -> bool:
    """Whether a synthesizer is there."""
    if renderer == "fluidsynth":
        return shutil.which("fluidsynth") is not None
    return importlib.util.find_spec(renderer) is not None


def find_instrument(renderer: str, soundfont: Path | None, program: int, gain: float, effects: bool) -> Instrument:
    """A synthesizer with a soundfont.

    Args:
        renderer: One of `RENDERERS`.
        soundfont: An .sf2 or .sf3 file; None: the first one of `SOUNDFONTS` that is installed, else pretty_midi's.
        program: General MIDI program, 0..127.
        gain: Linear gain.
        effects: With reverb and chorus, which only FluidSynth has.

    Raises:
        InputError: There is no such synthesizer or soundfont, or the file is no soundfont.
    """
    if not is_installed(renderer):
        remedy, other = (INSTALL[renderer], *(name for name in RENDERERS if name != renderer))
        raise InputError(f"{renderer} is not installed; {remedy}, or use --renderer {other}")
    if effects and renderer != "fluidsynth":
        raise InputError(
            "--effects needs FluidSynth, tinysoundfont has none; leave it out, or give --renderer fluidsynth"
        )
    path = soundfont or _installed_soundfont()
    if not path.is_file():
        raise InputError(f"{path}: no such soundfont; check --soundfont")
    with path.open("rb") as handle:
        head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise InputError(f"{path} is not a soundfont (.sf2 or .sf3); download it again, or name another --soundfont")
    return Instrument(renderer, path, program, gain, effects)


def _installed_soundfont() -> Path:
    """The first soundfont of the system, else the one that pretty_midi ships."""
    paths = [Path(folder) / name for name in SOUNDFONTS for folder in SOUNDFONT_FOLDERS]
    package = importlib.util.find_spec("pretty_midi")
    if package is not None and package.origin is not None:
        paths.append(Path(package.origin).with_name(SHIPPED_SOUNDFONT))
    for path in paths:
        if path.is_file():
            return path
    raise InputError(f"no soundfont is installed; {INSTALL['fluidsynth']}, or name a file with --soundfont")


def play(midi: bytes, seconds: float, instrument: Instrument | SampledInstrument) -> np.ndarray:
    """The sound of a MIDI file.

    Args:
        midi: The bytes of a file whose times are whole milliseconds.
        seconds: Length.
        instrument: What plays it.

    Returns:
        float32 [T, 2] at AUDIO_HZ, of exactly this length.

    Raises:
        InputError: The synthesizer reports an error, or ends too early; the sound does not fit into the memory or onto
            the disk.
    """
    n_frames = round(seconds * AUDIO_HZ)
    try:
        if isinstance(instrument, SampledInstrument):
            return play_samples(read_midi(io.BytesIO(midi)), n_frames, instrument, AUDIO_HZ)
        if instrument.renderer == "fluidsynth":
            return _play_fluidsynth(midi, n_frames, instrument)
        return _play_tinysoundfont(midi, n_frames, instrument)
    except MemoryError as error:
        n_bytes = n_frames * FRAME_BYTES
        raise InputError(f"{seconds:.0f} s take {n_bytes / 1e9:.1f} GB, which is too much memory; cut it") from error


def _play_fluidsynth(midi: bytes, n_frames: int, instrument: Instrument) -> np.ndarray:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _require_space(Path(folder).parent, n_frames * FRAME_BYTES)
        source = Path(folder) / "piece.mid"
        target = Path(folder) / "piece.raw"
        source.write_bytes(midi)
        effects = str(int(instrument.effects))
        command = ["fluidsynth", "-ni", "-q"]
        # The sizes in a wav header end at 4 GiB: 2.3 h of this.
        command += ["-F", str(target), "-T", "raw", "-O", "float", "-E", "cpu", "-r", str(AUDIO_HZ)]
        command += ["-g", f"{instrument.gain:g}", "-R", effects, "-C", effects]
        # By default FluidSynth ends notes early where the pedal holds many.
        command += ["-o", "synth.polyphony=2048"]
        command += [str(instrument.soundfont), str(source)]
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        reason = " ".join(f"{process.stderr} {process.stdout}".split()) or "it gave no reason"
        n_written = target.stat().st_size // FRAME_BYTES if target.is_file() else 0
        if process.returncode:
            raise InputError(f"FluidSynth did not play it (exit code {process.returncode}): {reason}")
        # Its exit code is 0 also after an error, on a full disk for example.
        if n_written < n_frames:
            lengths = f"{n_written / AUDIO_HZ:.3f} of {n_frames / AUDIO_HZ:.3f} s"
            place = f"it writes to {Path(folder).parent}, set TMPDIR to another folder if that is full"
            raise InputError(f"FluidSynth played only {lengths} ({reason}); {place}")
        if os.name == "nt":  # A file that is mapped cannot be removed.
            return np.fromfile(target, np.float32, count=2 * n_frames).reshape(-1, 2)
        # The removed file lasts as long as the array, without taking memory.
        return np.memmap(target, np.float32, mode="r", shape=(n_frames, 2))


def _require_space(folder: Path, n_bytes: int) -> None:
    """Raise InputError if so many bytes do not fit into a folder."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"FluidSynth writes {n_bytes / 1e6:.0f} MB to {folder}, where {free / 1e6:.0f} MB are free; free some "
            "space, or set TMPDIR to another folder"
        )


def _play_tinysoundfont(midi: bytes, n_frames: int, instrument: Instrument) -> np.ndarray:
    """Every note by itself, held as long as key and pedals hold it: tinysoundfont has no pedals."""
    performance = read_midi(io.BytesIO(midi))
    synthesizer = _tinysoundfont(instrument)
    audio = np.zeros((n_frames, 2), np.float32)
    end = np.minimum(sounding_offset(performance), n_frames / AUDIO_HZ)
    held_ms = np.rint((end - performance.onset) * TICKS_PER_SECOND).astype(int)
    first = np.rint(performance.onset * AUDIO_HZ).astype(int)
    columns = (first, held_ms * BLOCK, performance.pitch, performance.velocity)
    for begin, n_held, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
        sound = _play_note(synthesizer, pitch, velocity, n_held)[: n_frames - begin]
        # The amplitude grows with the square of the velocity (SoundFont 2.04, 8.4.1), with tinysoundfont linearly.
        audio[begin : begin + len(sound)] += sound * np.float32(velocity / MAX_VELOCITY)
    return audio * np.float32(instrument.gain * TINYSOUNDFONT_LEVEL)


def _tinysoundfont(instrument: Instrument) -> "tinysoundfont.Synth":
    import tinysoundfont

    synthesizer = tinysoundfont.Synth(samplerate=AUDIO_HZ)
    try:
        number = synthesizer.sfload(str(instrument.soundfont))
        synthesizer.program_select(0, number, 0, instrument.program)
    except (RuntimeError, tinysoundfont.SoundFontException) as error:
        reason = f"{error}; choose another --program or --soundfont"
        raise InputError(
            f"tinysoundfont cannot play program {instrument.program} of {instrument.soundfont}: {reason}"
        ) from error
    return synthesizer


def _play_note(synthesizer: "tinysoundfont.Synth", pitch: int, velocity: int, n_held: int) -> np.ndarray:
    """One note from its onset until it is silent, float32 [T, 2]."""

    def generate(n_frames: int) -> np.ndarray:
        return np.frombuffer(synthesizer.generate_simple(n_frames), np.float32).reshape(-1, 2)

    synthesizer.noteon(0, pitch, velocity)
    blocks = [generate(n_held)]
    synthesizer.noteoff(0, pitch)
    while len(blocks) == 1 or blocks[-1].any():
        blocks.append(generate(RELEASE_BLOCK))
    return np.concatenate(blocks)
