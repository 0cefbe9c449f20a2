"""Files whose headers state another size than they have: read by the size of the file where that is certain."""

import io
import re
import struct
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from midi2wave.audio import io as audio_io
from midi2wave.audio.containers import locate_samples
from midi2wave.audio.source import BLOCK_FRAMES, open_audio
from midi2wave.utils.errors import InputError

HZ = 16000
N_FRAMES = 8000
PCM = np.random.default_rng(0).integers(-9000, 9000, (N_FRAMES, 2)).astype(np.int16)
RAW = PCM.tobytes()
LIST_CHUNK = b"LIST\x0c\0\0\0INFOISFT\0\0\0\0"


def wav(stated: int, samples: bytes = RAW, form: bytes = b"RIFF", channels: int = 2, audio_hz: int = HZ) -> bytes:
    """A 16-bit wav with the usual 44-byte header that states so many bytes of samples."""
    order = ">" if form == b"RIFX" else "<"
    size = struct.pack(f"{order}I", (36 + stated) % 2**32)
    audio_format = (16, 1, channels, audio_hz, 2 * channels * audio_hz, 2 * channels, 16)
    chunk = struct.pack(f"{order}IHHIIHH", *audio_format)
    return form + size + b"WAVEfmt " + chunk + b"data" + struct.pack(f"{order}I", stated % 2**32) + samples


def written(file_format: str, subtype: str = "PCM_16") -> bytearray:
    """PCM as soundfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, PCM / 32768, HZ, format=file_format, subtype=subtype)
    return bytearray(file.getvalue())


@dataclass(frozen=True)
class Field:
    """Where a container that soundfile writes states the bytes of its samples: after a mark, with an addition."""

    mark: bytes
    offset: int
    packing: str
    added: int


FIELDS = {
    "WAV": Field(b"data", 4, "<I", 0),
    "WAVEX": Field(b"data", 4, "<I", 0),
    "RF64": Field(b"ds64", 16, "<Q", 0),
    "W64": Field(b"data\xf3\xac", 16, "<Q", 24),
    "AIFF": Field(b"SSND", 4, ">I", 8),
    "AU": Field(b".snd", 8, ">I", 0),
    "CAF": Field(b"data", 4, ">q", 4),
}


def stating(file_format: str, n_bytes: int, subtype: str = "PCM_16") -> bytes:
    """A file whose header states so many bytes of samples; -1: the largest number."""
    content, field = written(file_format, subtype), FIELDS[file_format]
    packing = field.packing.lower() if n_bytes < 0 else field.packing
    position = content.rindex(field.mark) + field.offset
    struct.pack_into(packing, content, position, n_bytes + (field.added if n_bytes > 0 else 0))
    return bytes(content)


def read(path):
    """All samples of a file, int16 [T, channels]."""
    with open_audio(path) as source:
        return np.concatenate(list(source.blocks()))


@pytest.fixture
def file(tmp_path):
    """Writes bytes to a file."""

    def write(content, name="x.wav"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("file_format", FIELDS)
def test_true_sizes_are_believed(file, file_format, capsys):
    path = file(written(file_format))
    samples = locate_samples(path)
    assert samples.size == samples.stated == len(RAW)
    assert np.array_equal(read(path), PCM)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU"])
def test_a_file_that_was_never_finished_is_read(file, file_format, capsys):
    path = file(stating(file_format, 0))
    assert np.array_equal(read(path), PCM)
    assert "states 0 bytes of samples, the file holds 32000; read to the end" in capsys.readouterr().err


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "AIFF", "AU"])
@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF - 44, 0x80000000, 0xFFFFFFFF - 44, 0xFFFFFFFF - 8])
def test_sizes_of_encoders_that_do_not_know_it(file, file_format, size, capsys):
    assert np.array_equal(read(file(stating(file_format, size))), PCM)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("file_format", FIELDS)
def test_a_size_that_is_too_small_is_refused(file, file_format):
    path = file(stating(file_format, len(RAW) // 2))
    with pytest.raises(InputError, match=r"states 16000 bytes of samples, but 16000 bytes follow .*more samples"):
        read(path)


@pytest.mark.parametrize("file_format", FIELDS)
def test_a_size_that_is_too_large_is_refused(file, file_format):
    path = file(stating(file_format, 2 * len(RAW)))
    with pytest.raises(InputError, match="truncated: 32000 of 64000 bytes"):
        read(path)


def test_a_truncated_file_of_gigabytes_is_no_stream(file):
    with pytest.raises(InputError, match="truncated: 32000 of 3000000000 bytes"):
        read(file(wav(3_000_000_000)))


def test_a_caf_of_unknown_size_is_refused(file):
    with pytest.raises(InputError, match="does not state its length"):
        read(file(stating("CAF", -1)))


def test_compressed_samples_of_a_wrong_size_are_refused(file):
    with pytest.raises(InputError, match=r"0 of \d+ bytes of samples, and they are compressed \(MS_ADPCM\)"):
        read(file(stating("WAV", 0, "MS_ADPCM")))
    assert len(read(file(written("WAV", "MS_ADPCM")))) >= N_FRAMES


@pytest.mark.parametrize("form", [b"RIFF", b"RIFX"])
@pytest.mark.parametrize("trailer", [b"", LIST_CHUNK, b"id3 \x02\0\0\0xy"])
def test_a_size_that_wrapped_is_read(tmp_path, form, trailer, capsys):
    """7 h of stereo at 44.1 kHz in a sparse file: the 32-bit size states a fraction of it."""
    if form == b"RIFX" and trailer:
        trailer = trailer[:4] + struct.pack(">I", len(trailer) - 8) + trailer[8:]
    path, n_bytes = tmp_path / "x.wav", 7 * 3600 * 44100 * 4
    with open(path, "wb") as handle:
        handle.write(wav(n_bytes, b"", form, audio_hz=44100))
        handle.seek(44 + n_bytes - 4)
        handle.write(b"\x01\0\x01\0" + trailer)
    with open_audio(path) as source:
        assert source.n_frames == 7 * 3600 * 44100
        assert next(iter(source.blocks())).shape == (BLOCK_FRAMES // 2, 2)
    words = f"states {n_bytes % 2**32} bytes of samples, the file holds {n_bytes}; read to the end"
    assert words in capsys.readouterr().err
    with open(path, "ab") as handle:
        handle.write(bytes(3) + b"\x01" * 9000)  # No chunk, too long for a tag: any end could be the true one.
    with pytest.raises(InputError, match="export it again"), open_audio(path):
        pass


def test_an_aiff_whose_size_wrapped_is_read(tmp_path):
    n_frames = 2**30 + 12345
    content = written("AIFF")[:54]
    struct.pack_into(">I", content, 22, n_frames)
    struct.pack_into(">I", content, 42, (8 + 4 * n_frames) % 2**32)
    path = tmp_path / "x.aif"
    with open(path, "wb") as handle:
        handle.write(content)
        handle.truncate(54 + 4 * n_frames)
    with open_audio(path) as source:
        assert source.n_frames == n_frames
        assert not next(iter(source.blocks())).any()


def test_the_wrapped_end_is_read_to_the_last_sample(tmp_path, monkeypatch):
    """The same arithmetic with sizes of 2^32 bytes and a little, without reading gigabytes of silence."""
    path, n_bytes = tmp_path / "x.wav", 2**32 + 8
    with open(path, "wb") as handle:
        handle.write(wav(n_bytes, b""))
        handle.seek(44 + n_bytes - 8)
        handle.write(RAW[:8])
    with open_audio(path) as source:
        source._stream._handle.seek(44 + n_bytes - 16)
        blocks = list(source._unchecked_blocks("int16"))
    assert np.array_equal(np.concatenate(blocks), np.concatenate([np.zeros((2, 2)), PCM[:2]]))


def test_several_recordings_in_one_file_are_refused(file):
    whole = wav(len(RAW))
    with pytest.raises(InputError, match=r"32044 bytes follow .*another file, RIFF"):
        read(file(whole + whole))
    with pytest.raises(InputError, match="several chunks of samples, the second one at byte 32052"):
        read(file(whole + whole[36:]))


@pytest.mark.parametrize(
    ("rest", "frames"),
    [
        (LIST_CHUNK, N_FRAMES),
        (b"TAG" + bytes(125), N_FRAMES),
        (b"ID3" + b"\x01" * 9000, N_FRAMES),
        (b"\x01" * 4000, N_FRAMES),
        (bytes(100_000), N_FRAMES),
    ],
)
def test_what_may_follow_the_samples(file, rest, frames, capsys):
    assert np.array_equal(read(file(wav(len(RAW)) + rest)), PCM[:frames])
    assert capsys.readouterr().err == ""


def test_chunks_without_end_are_not_followed(file):
    """A size that no file can have, and millions of empty chunks."""
    content = written("W64")
    content[56:64] = b"\xff" * 8
    assert locate_samples(file(content)) is None
    assert locate_samples(file(wav(0)[:36] + b"junk\0\0\0\0" * 20_000 + wav(0)[36:])) is None


@pytest.mark.parametrize("padding", [b"", b"\0"])
def test_an_odd_number_of_bytes_with_and_without_padding(file, padding):
    header = bytearray(wav(7, b"", channels=1))
    struct.pack_into("<IHH", header, 28, HZ, 1, 8)
    path = file(bytes(header) + bytes(range(126, 133)) + padding + LIST_CHUNK)
    assert (read(path)[:7, 0] * 128).tolist() == [-2, -1, 0, 1, 2, 3, 4]


SUBTYPES = {
    "WAV": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"],
    "AIFF": ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"],
    "AU": ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"],
    "W64": ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"],
}


@pytest.mark.parametrize(("file_format", "subtype"), [(f, s) for f, subtypes in SUBTYPES.items() for s in subtypes])
def test_plain_samples_equal_those_of_libsndfile(file, file_format, subtype):
    content = written(file_format, subtype)
    expected = read(file(content, "true.wav"))
    zero_at = content.rindex(FIELDS[file_format].mark) + FIELDS[file_format].offset
    struct.pack_into(FIELDS[file_format].packing, content, zero_at, 0)
    unfinished = file(content)
    with open_audio(unfinished) as source:
        blocks = list(source.blocks())
    assert np.array_equal(np.concatenate(blocks), expected)


def test_a_name_is_no_sign_of_a_format(file):
    """libsndfile takes any .au and .snd for mu-law at 8 kHz."""
    for name in ("x.au", "x.snd"):
        with pytest.raises(InputError, match="Format not recognised"):
            read(file(b"version https://git-lfs.github.com/spec/v1\n", name))


def test_every_reader_reads_by_the_size_of_the_file(file, tmp_path):
    path = file(wav(0))
    mono = np.rint(PCM.astype(float).mean(axis=1))
    assert np.abs(audio_io.read_pcm(path, HZ) - mono).max() <= 1
    assert len(audio_io.read_beginning(path, HZ, 7000)) == 7000
    assert audio_io.resample_file(path, tmp_path / "y.wav", HZ).seconds == N_FRAMES / HZ


def test_too_long_for_a_wav_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_io, "MAX_WAV_SAMPLES", 5000)
    soundfile.write(tmp_path / "x.wav", PCM, HZ)
    written_blocks = []
    monkeypatch.setattr(audio_io, "_write_blocks", lambda *arguments: written_blocks.append(arguments))
    with pytest.raises(InputError, match=re.escape("0.0 h are too long for a wav")):
        audio_io.resample_file(tmp_path / "x.wav", tmp_path / "y.wav", HZ)
    assert not written_blocks
    with pytest.raises(InputError, match="too long for a wav"):
        audio_io.write_wav(tmp_path / "y.wav", np.zeros(5001, np.int16), HZ)
    with (
        pytest.raises(InputError, match="too long for a wav"),
        audio_io.wav_stream(tmp_path / "y.wav", HZ, tmp_path / "z.wav") as append,
    ):
        append(np.zeros(5000, np.int16))
        append(np.zeros(1, np.int16))
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_the_limit_of_a_wav_is_that_of_its_32_bit_sizes():
    audio_io.require_wav_length("x", audio_io.MAX_WAV_SAMPLES, HZ)
    assert 2**32 - 100 < 36 + 2 * audio_io.MAX_WAV_SAMPLES < 2**32
    with pytest.raises(InputError, match=r"x: 37\.3 h are too long for a wav \(37\.3 h at 16000 Hz\)"):
        audio_io.require_wav_length("x", audio_io.MAX_WAV_SAMPLES + 1, HZ)
