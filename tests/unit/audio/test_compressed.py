"""FLAC, Ogg and MP3 files of unknown or wrong length."""

import numpy as np
import pytest
import soundfile

from midi2wave.audio import io as audio_io
from midi2wave.audio.compressed import states_length
from midi2wave.audio.source import open_audio
from midi2wave.utils.errors import InputError

HZ = 48000
N_FRAMES = 4 * HZ
NOISE = 0.3 * np.random.default_rng(0).standard_normal((N_FRAMES, 2)).clip(-3, 3)
SUBTYPES = {"flac": "PCM_16", "ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The bytes of each kind of file."""
    folder = tmp_path_factory.mktemp("whole")
    for name, subtype in SUBTYPES.items():
        file_format = {"opus": "OGG"}.get(name, name.upper())
        with soundfile.SoundFile(folder / name, "w", HZ, 2, subtype, format=file_format) as target:
            for first in range(0, N_FRAMES, 4096):  # libsndfile's Vorbis encoder crashes on longer blocks.
                target.write(NOISE[first : first + 4096])
    return {name: (folder / name).read_bytes() for name in SUBTYPES}


@pytest.fixture
def file(tmp_path):
    """Writes bytes to a file."""

    def write(content, name="x"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def read(path):
    with open_audio(path) as source:
        return np.concatenate(list(source.blocks()))


def with_total(flac: bytes, total: int, md5: bool = True) -> bytes:
    """A FLAC file whose STREAMINFO states so many frames."""
    changed = bytearray(flac)
    changed[21] = changed[21] & 0xF0 | total >> 32
    changed[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    if not md5:
        changed[26:42] = bytes(16)
    return bytes(changed)


@pytest.mark.parametrize("md5", [True, False])
def test_a_flac_of_unknown_length_is_read(file, contents, tmp_path, md5):
    whole = file(contents["flac"], "whole.flac")
    path = file(with_total(contents["flac"], 0, md5), "piped.flac")
    with open_audio(path) as source:
        assert source.n_frames is None
    assert np.array_equal(read(path), read(whole))
    assert np.array_equal(audio_io.read_pcm(path, HZ), audio_io.read_pcm(whole, HZ))
    assert audio_io.resample_file(path, tmp_path / "y.wav", 16000).seconds == 4.0
    n_samples = len(audio_io.read_beginning(path, 16000, 4 * 16000))
    assert n_samples == 4 * 16000


def test_a_flac_of_unknown_length_that_is_cut_is_refused(file, contents):
    piped = with_total(contents["flac"], 0)
    with pytest.raises(InputError, match=r"cannot be read as audio: .*lost sync"):
        read(file(piped[: len(piped) // 2]))


@pytest.mark.parametrize(
    ("total", "words"),
    [(N_FRAMES // 2, "ends after 96000 frames, but .* bytes follow"), (2 * N_FRAMES, "truncated: 192000 of 384000")],
)
def test_a_flac_of_wrong_length_is_refused(file, contents, total, words):
    with pytest.raises(InputError, match=words):
        read(file(with_total(contents["flac"], total)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("flac", "several files in one"),
        ("mp3", "several files in one"),
        ("ogg", "holds several recordings, the second one from byte"),
        ("opus", "holds several recordings, the second one from byte"),
    ],
)
def test_files_that_were_joined_are_refused(file, contents, kind, words):
    with pytest.raises(InputError, match=words):
        read(file(2 * contents[kind]))


@pytest.mark.parametrize("kind", SUBTYPES)
@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"\x01" * 3000])
def test_a_tag_may_follow(file, contents, kind, tag):
    assert np.array_equal(read(file(contents[kind] + tag)), read(file(contents[kind])))


@pytest.mark.parametrize("kind", SUBTYPES)
def test_a_truncated_file_is_refused(file, contents, kind):
    with pytest.raises(InputError, match=r"truncated|lost sync"):
        read(file(contents[kind][: len(contents[kind]) // 2]))


def pages(ogg: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    return [b"OggS" + page for page in ogg.split(b"OggS")[1:]]


def with_checksum(page: bytearray) -> bytes:
    """An Ogg page with the checksum of its bytes: CRC-32 with the polynomial 0x04c11db7, not reflected."""
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    page[22:26] = checksum.to_bytes(4, "little")
    return bytes(page)


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_an_ogg_without_an_end_is_read(file, contents, kind, capsys):
    """As a stream that was recorded: the last page is not marked, or states no position either."""
    whole = read(file(contents[kind]))
    assert capsys.readouterr().err == ""
    first = pages(contents[kind])[:-1]
    received = read(file(b"".join(first)))
    assert N_FRAMES / 2 < len(received) < len(whole)
    assert np.array_equal(received, whole[: len(received)])
    assert "has no mark of its end" in capsys.readouterr().err
    last = bytearray(pages(contents[kind])[-1])
    last[5] &= ~4
    last[6:14] = b"\xff" * 8
    assert len(read(file(b"".join(first) + with_checksum(last)))) >= len(received)


def test_an_ogg_with_a_hole_is_refused(file, contents):
    middle = len(contents["ogg"]) // 2
    hole = contents["ogg"][:middle] + contents["ogg"][middle + 10_000 :]
    with pytest.raises(InputError, match="damaged at byte"):
        read(file(hole))


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_a_stated_length(file, mode):
    """libsndfile guesses the length from the first bit rate and reads no further: too few where the rate varies."""
    loud_at_first = NOISE * np.linspace(1, 0, N_FRAMES)[:, None] ** 4
    path = file(b"", "x.mp3")
    with soundfile.SoundFile(path, "w", HZ, 2, format="MP3", bitrate_mode=mode, compression_level=0.5) as target:
        target.write(loud_at_first)
    content = path.read_bytes()
    assert states_length(path) and states_length(file(b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + content))
    path = file(content[content.index(b"\xff\xfb", 4) :])  # The first frame holds the length alone.
    assert not states_length(path)
    if mode == "CONSTANT":
        assert len(read(path)) >= N_FRAMES
    else:
        with pytest.raises(InputError, match=r"libsndfile ends after \d+ frames, .* a variable bit rate"):
            read(path)
