"""A tiny sampled instrument: sines that begin late in their files, by another time in each."""

from pathlib import Path

import numpy as np
import soundfile

HZ = 48000
KEYS = (60, 63)
DELAYS_MS = (3.0, 27.0, 11.5, 19.25, 8.0, 40.0)
# The highest velocity of each layer, and its amplitude: the second one is recorded too quietly.
LAYERS = ((40, 0.05), (80, 0.04), (127, 0.5))
RELEASE_SECONDS = 0.2
RELEASE_TONE_HZ = 3000.0
SECONDS = 1.5


def hertz(pitch: float) -> float:
    """The frequency of a MIDI pitch."""
    return float(440 * 2 ** ((pitch - 69) / 12))


def write_tone(path: Path, delay_ms: float, frequency: float, amplitude: float, seconds: float = SECONDS) -> None:
    """A sine that begins at full amplitude after a delay filled with quiet noise."""
    time = np.arange(round(seconds * HZ)) / HZ - delay_ms / 1000
    tone = amplitude * np.cos(2 * np.pi * frequency * time) * (time >= 0)
    noise = amplitude * 1e-3 * np.random.default_rng(0).standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (tone + noise).astype(np.float32), HZ, subtype="FLOAT")


def write_instrument(folder: Path, extra: str = "") -> Path:
    """Two sampled keys in three layers, and a release sample; returns the SFZ file."""
    delays = iter(DELAYS_MS)
    lines = ["// a test", "<control> default_path=samples\\", f"<group> amp_veltrack=0 ampeg_release={RELEASE_SECONDS}"]
    for key in KEYS:
        low = 1
        for layer, (high, amplitude) in enumerate(LAYERS):
            name = f"tone {key} {layer}.wav"
            write_tone(folder / "samples" / name, next(delays), hertz(key), amplitude)
            opcodes = f"lokey={key - 1} hikey={key + 1} pitch_keycenter={key} lovel={low} hivel={high}"
            lines.append(f"<region> sample={name} {opcodes}")
            low = high + 1
    write_tone(folder / "samples" / "release.wav", 0.0, RELEASE_TONE_HZ, 0.3, 0.3)
    lines.append("<group> trigger=release pitch_keytrack=0 volume=-6 rt_decay=4 amp_veltrack=0")
    lines.append("<region> sample=release.wav lokey=0 hikey=127")
    path = folder / "piano.sfz"
    path.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")
    return path
