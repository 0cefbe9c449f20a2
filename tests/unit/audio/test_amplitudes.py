"""Float files whose numbers are no amplitudes."""

import numpy as np
import pytest
import soundfile

from midi2wave.audio import io as audio_io
from midi2wave.audio.source import BLOCK_FRAMES
from midi2wave.utils.errors import InputError

HZ = 16000
INTEGERS = np.random.default_rng(0).integers(-9833, 9834, HZ).astype(float)


@pytest.fixture
def file(tmp_path):
    """Writes numbers as a file of floats."""

    def write(samples, subtype="FLOAT", file_format="WAV"):
        soundfile.write(tmp_path / "x.wav", samples, HZ, format=file_format, subtype=subtype)
        return tmp_path / "x.wav"

    return write


@pytest.mark.parametrize("file_format", ["WAV", "AIFF", "W64", "CAF"])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_16_bit_integers_stored_as_float(file, tmp_path, file_format, subtype):
    path = file(INTEGERS, subtype, file_format)
    words = r"x\.wav has samples up to 9,833 times full scale: it looks like 16-bit .* divide by 32768"
    with pytest.raises(InputError, match=words):
        audio_io.read_pcm(path, HZ)
    with pytest.raises(InputError, match=words):
        audio_io.read_beginning(path, HZ, 100)
    for audio_hz in (HZ, 22050):
        with pytest.raises(InputError, match=words):
            audio_io.resample_file(path, tmp_path / "y.wav", audio_hz)
    assert not (tmp_path / "y.wav").exists()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (INTEGERS + 0.25, "16-bit integers .* divide by 32768"),
        (INTEGERS * 3.35, "16-bit integers .* divide by 32768"),  # Filters go a little beyond the range.
        (np.rint(INTEGERS / 3000), "up to 3 times full scale: .* 16-bit integers"),  # At most 3 steps: nearly silence.
        (INTEGERS * 256, "24-bit integers .* divide by 8388608"),
        (INTEGERS * 65536, "32-bit integers .* divide by 2147483648"),
        (np.r_[INTEGERS / 100, np.zeros(BLOCK_FRAMES), INTEGERS * 256], "24-bit integers .* divide by 8388608"),
        (INTEGERS * 1e30, r"samples beyond 100 times full scale, the first at 0\.000 s"),
        (np.r_[INTEGERS / 1e4, 101.5], r"samples beyond 100 times full scale, the first at 1\.000 s"),
    ],
)
def test_other_scales_and_damage(file, samples, words):
    with pytest.raises(InputError, match=words):
        audio_io.read_pcm(file(samples), HZ)


@pytest.mark.parametrize("peak", [1.0, 1.5, 16.0, 99.0])
def test_an_overload_is_clipped_and_no_error(file, tmp_path, peak):
    samples = INTEGERS / 9833 * peak
    done = audio_io.resample_file(file(samples), tmp_path / "y.wav", HZ)
    assert done.peak == pytest.approx(peak)
    assert len(audio_io.read_pcm(tmp_path / "x.wav", HZ)) == HZ


@pytest.mark.parametrize("samples", [np.zeros(HZ), np.sign(INTEGERS)])
def test_silence_and_full_scale_are_amplitudes(file, samples):
    assert len(audio_io.read_pcm(file(samples), HZ)) == HZ
