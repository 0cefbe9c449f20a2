"""Reading, writing and resampling, on generated files and on a clip of MAESTRO."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from midi2wave.audio import io as audio_io
from midi2wave.audio.pcm import to_pcm
from midi2wave.audio.source import BLOCK_FRAMES
from midi2wave.utils.errors import InputError
from tests.helpers.paths import SHARED

CLIP = SHARED / "data" / "maestro-clip"


def noise(n_frames: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (n_frames, channels))


def tone(frequency: float, source_hz: int, seconds: float = 1.0) -> np.ndarray:
    return 0.9 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * source_hz)) / source_hz)


def level_db(pcm: np.ndarray) -> float:
    """RMS relative to a 0.9 tone, of the middle: the abrupt ends of a tone are sound of their own."""
    middle = pcm[len(pcm) // 4 : -len(pcm) // 4] / 32768
    return float(20 * np.log10(np.sqrt(np.mean(middle**2)) / (0.9 / np.sqrt(2)) + 1e-12))


def test_pcm_is_read_exactly_as_written(tmp_path):
    pcm = np.random.default_rng(0).integers(-32768, 32768, 100_000).astype(np.int16)
    pcm[:2] = -32768, 32767
    audio_io.write_wav(tmp_path / "deep" / "x.wav", pcm, 16000)
    assert np.array_equal(audio_io.read_pcm(tmp_path / "deep" / "x.wav", 16000), pcm)
    info = soundfile.info(tmp_path / "deep" / "x.wav")
    assert (info.subtype, info.channels, info.samplerate, info.frames) == ("PCM_16", 1, 16000, 100_000)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.wav"]


def test_write_wav_rejects_other_types(tmp_path):
    with pytest.raises(TypeError):
        audio_io.write_wav(tmp_path / "x.wav", np.zeros(10), 16000)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "PCM_24")])
def test_read_averages_channels(tmp_path, suffix, subtype):
    left, right = np.array([100, -8, 32766, 5]), np.array([300, 4, 32766, -5])
    path = tmp_path / f"Prélude №1 月光.{suffix}"
    soundfile.write(path, np.stack([left, right], axis=1) / 32768, 16000, subtype=subtype)
    assert audio_io.read_pcm(path, 16000).tolist() == [200, -2, 32766, 0]


def damaged(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    samples = noise(16000, 2)
    if kind == "nan":
        samples[12000, 1] = np.nan
    if kind == "infinite":
        samples[3, 0] = np.inf
    flac = kind == "cut flac"
    frames = samples[:0] if kind == "no samples" else samples
    soundfile.write(path, frames, 16000, format="FLAC" if flac else "WAV", subtype="PCM_16" if flac else "FLOAT")
    cut_at = {"empty": 0, "cut header": 30, "cut samples": 50_000, "cut flac": 20_000}.get(kind)
    path.write_bytes(path.read_bytes()[:cut_at])
    if kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    if kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such audio file"),
        ("empty", "cannot be read as audio: empty file"),
        ("pointer", "cannot be read as audio: Format not recognised"),
        ("no samples", "is empty"),
        ("cut header", "cannot be read as audio: .*marker"),
        ("cut samples", "truncated: .* of 128000 bytes"),
        ("cut flac", "cannot be read as audio: .*lost sync|truncated"),
        ("nan", r"NaN or infinite samples, the first at 0\.750 s"),
        ("infinite", r"NaN or infinite samples, the first at 0\.000 s"),
    ],
)
def test_damaged_files_are_rejected_and_leave_nothing(tmp_path, kind, words):
    path = damaged(tmp_path, kind)
    with pytest.raises(InputError, match=words):
        audio_io.read_pcm(path, 16000)
    for audio_hz in (16000, 22050):  # the same rate takes another way
        with pytest.raises(InputError, match=words):
            audio_io.resample_file(path, tmp_path / "out" / "x.wav", audio_hz)
    assert not any((tmp_path / "out").glob("*"))


def test_another_sample_rate_names_the_command_to_run(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(100), 44100)
    with pytest.raises(InputError, match=r"is at 44100 Hz, expected 16000; run resample_audio\.py first"):
        audio_io.read_pcm(tmp_path / "x.wav", 16000)


def test_wav_with_unknown_data_size_is_read_completely(tmp_path):
    path = tmp_path / "piped.wav"
    audio_io.write_wav(path, np.arange(1000, dtype=np.int16), 16000)
    header = bytearray(path.read_bytes())
    header[4:8] = header[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(header)
    assert np.array_equal(audio_io.read_pcm(path, 16000), np.arange(1000))


@pytest.mark.parametrize("resampler", [name for name in audio_io.RESAMPLERS if name.startswith("soxr")])
@pytest.mark.parametrize("source_hz", [44100, 48000, 8000])
@pytest.mark.parametrize("n_frames", [7, BLOCK_FRAMES, 2 * BLOCK_FRAMES + 12345])
def test_streaming_equals_the_whole_file(tmp_path, resampler, source_hz, n_frames):
    soundfile.write(tmp_path / "x.wav", noise(n_frames, 2), source_hz, subtype="FLOAT")
    whole = soundfile.read(tmp_path / "x.wav", dtype="float32")[0].mean(axis=1)
    expected = soxr.resample(whole, source_hz, 16000, resampler.removeprefix("soxr_").upper())
    outcome = audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", 16000, resampler)
    pcm = audio_io.read_pcm(tmp_path / "y.wav", 16000).astype(int)
    assert len(pcm) == len(expected)
    assert np.abs(pcm - to_pcm(expected)[0]).max() <= 1
    assert (outcome.source_hz, outcome.channels, outcome.n_clipped) == (source_hz, 2, 0)
    assert outcome.seconds == len(expected) / 16000
    assert outcome.peak == pytest.approx(np.abs(expected).max(), abs=1e-6)


def test_memory_does_not_grow_with_length(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(60 * 44100, 2), 44100, subtype="FLOAT")  # 21 MB
    tracemalloc.start()
    try:
        audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", 16000)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("resampler", "tolerance"), [("kaiser_best", 1e-3), ("kaiser_fast", 3e-3)])
def test_kaiser_resamplers_keep_a_tone(tmp_path, resampler, tolerance):
    soundfile.write(tmp_path / "x.wav", tone(1000, 48000), 48000, subtype="FLOAT")
    audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", 16000, resampler)
    pcm = audio_io.read_pcm(tmp_path / "y.wav", 16000)
    assert len(pcm) == 16000
    error = pcm / 32768 - tone(1000, 16000)
    assert np.abs(error[4000:-4000]).max() < tolerance


@pytest.mark.parametrize("resampler", ["soxr_hq", "kaiser_fast"])
def test_too_short_for_a_sample(tmp_path, resampler):
    soundfile.write(tmp_path / "x.wav", noise(1), 384000)
    with pytest.raises(InputError, match="too short"):
        audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", 8000, resampler)
    assert not (tmp_path / "y.wav").exists()


def test_no_alias_and_a_flat_pass_band(tmp_path):
    levels = {}
    for frequency in (1000, 7000, 10_000):  # 10 kHz would fold to 6 kHz
        soundfile.write(tmp_path / "x.wav", tone(frequency, 44100), 44100, subtype="FLOAT")
        audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", 16000)
        levels[frequency] = level_db(audio_io.read_pcm(tmp_path / "y.wav", 16000))
    assert levels[10_000] < -90
    assert abs(levels[1000]) < 0.01
    assert abs(levels[7000]) < 0.01


def test_same_rate_keeps_every_sample(tmp_path):
    pcm = np.random.default_rng(0).integers(-32768, 32768, 70_000).astype(np.int16)
    soundfile.write(tmp_path / "x.flac", pcm, 16000)
    audio_io.resample_file(tmp_path / "x.flac", tmp_path / "y.wav", 16000, "kaiser_best")
    assert np.array_equal(audio_io.read_pcm(tmp_path / "y.wav", 16000), pcm)


def test_clipping_is_counted(tmp_path):
    soundfile.write(tmp_path / "x.wav", [0.5, 1.5, -2.0, -1.0], 16000, subtype="FLOAT")
    outcome = audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", 16000)
    assert (outcome.n_clipped, outcome.peak) == (2, 2.0)
    assert audio_io.read_pcm(tmp_path / "y.wav", 16000).tolist() == [16384, 32767, -32768, -32768]


def test_failure_keeps_the_earlier_result(tmp_path):
    audio_io.write_wav(tmp_path / "y.wav", np.arange(5, dtype=np.int16), 16000)
    with pytest.raises(InputError):
        audio_io.resample_file(damaged(tmp_path, "nan"), tmp_path / "y.wav", 16000)
    assert audio_io.read_pcm(tmp_path / "y.wav", 16000).tolist() == [0, 1, 2, 3, 4]


def test_unknown_resampler_lists_the_valid_ones(tmp_path):
    with pytest.raises(InputError, match=r"'sinc'; expected one of soxr_hq"):
        audio_io.resample_file(damaged(tmp_path, "whole"), tmp_path / "y.wav", 16000, "sinc")


@pytest.mark.skipif(not CLIP.is_dir(), reason="the MAESTRO clip is not at hand (../shared/data/maestro-clip)")
def test_maestro_clip(tmp_path):
    clip = next(CLIP.glob("*.wav"))
    outcome = audio_io.resample_file(clip, tmp_path / "y.wav", 16000)
    pcm = audio_io.read_pcm(tmp_path / "y.wav", 16000)
    info = soundfile.info(clip)
    assert (outcome.source_hz, outcome.channels) == (48000, 2)
    assert len(pcm) == round(info.frames / 3)
    assert outcome.n_clipped == 0
    # the same sound: both spectra agree below 7 kHz, where the resampler's filter is flat
    source = soundfile.read(clip)[0].mean(axis=1)
    expected = np.abs(np.fft.rfft(source, 3 * len(pcm)))[: 7 * len(pcm) // 16] / 3
    actual = np.abs(np.fft.rfft(pcm / 32768))[: len(expected)]
    assert np.linalg.norm(actual - expected) < 0.002 * np.linalg.norm(expected)


def response_db(frequencies: list[float], source_hz: int) -> list[float]:
    """Level of a tone after resampling to 16 kHz, in dB of what it was, before it becomes 16-bit; RMS of the middle."""
    levels = []
    for frequency in frequencies:
        sound = tone(frequency, source_hz, 2.0).astype(np.float32)
        pieces = (sound[first : first + 10_000] for first in range(0, len(sound), 10_000))
        out = np.concatenate(list(audio_io._resampled_blocks(pieces, source_hz, 16000, "soxr_hq"))).astype(np.float64)
        middle = out[len(out) // 4 : -len(out) // 4]
        levels.append(10 * np.log10(np.mean(middle**2) / (0.9**2 / 2) + 1e-20))
    return levels


@pytest.mark.parametrize("source_hz", [44100, 48000, 96000])
def test_default_resampler_pass_band_and_aliases(source_hz):
    """The default resampler is flat up to 7200 Hz and attenuates aliases by 100 dB."""
    flat = response_db([20, 440, 4000, 6000, 7000, 7200], source_hz)
    assert max(map(abs, flat)) < 0.1
    aliases = response_db([8800, 9000, 10_000, 12_345, 15_900, 16_100, 20_000, 0.49 * source_hz], source_hz)
    assert max(aliases) < -100


@pytest.mark.parametrize("source_hz", [8000, 11025])
def test_upsampling_makes_no_images(source_hz):
    sound = tone(0.4 * source_hz, source_hz, 2.0).astype(np.float32)
    out = np.concatenate(list(audio_io._resampled_blocks(iter([sound]), source_hz, 16000, "soxr_hq"))).astype(
        np.float64
    )
    middle = out[len(out) // 4 : len(out) // 4 + 15_000] * np.blackman(15_000)
    spectrum = np.abs(np.fft.rfft(middle))
    own = np.abs(np.fft.rfftfreq(15_000, 1 / 16000) - 0.4 * source_hz) < 30
    assert 20 * np.log10(spectrum[~own].max() / spectrum.max()) < -100


@pytest.mark.parametrize("file_format", ["FLAC", "WAV"])
def test_amplitudes_on_a_full_disk(tmp_path, limit_file_size, file_format):
    """Wherever the disk ends, also within what libsndfile writes when it closes the file."""
    path, sound = tmp_path / "x", noise(20_000, 2).astype(np.float32)
    audio_io.write_amplitudes(path, sound, 16000, file_format)
    whole = path.read_bytes()
    path.unlink()
    for n_bytes in (0, 40, 4096, len(whole) // 2, len(whole) - 5000, len(whole) - 100, len(whole) - 1):
        with (
            limit_file_size(n_bytes),
            pytest.raises(InputError, match=r"x was not written whole \(.+; is the disk full"),
        ):
            audio_io.write_amplitudes(path, sound, 16000, file_format)
        assert not any(tmp_path.iterdir())
    with limit_file_size(len(whole)):
        audio_io.write_amplitudes(path, sound, 16000, file_format)
    assert path.read_bytes() == whole
