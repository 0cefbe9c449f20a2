"""Mutated files against every reader of the data pipeline: each is read, or refused with a reason, and nothing else.

    python -m tests.helpers.fuzz                                # 20,000 cases, new ones every time; about two minutes
    python -m tests.helpers.fuzz --cases 100000 --seed 7        # the same 100,000 again
    python -m tests.helpers.fuzz --only midi                    # one kind of file

`test_fuzz.py` runs 2,400 fixed cases. A case must end within SECONDS and within MEGABYTES beyond what the process
holds, may raise InputError only, and may leave neither half a file nor anything outside of its folder.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import soundfile
from hypothesis import strategies as st

import preprocess_maestro
import resample_audio
from midi2wave.audio import io as audio_io
from midi2wave.conditioning.note_conditioning import NoteConditioning
from midi2wave.config import DataConfig
from midi2wave.data import maestro, processed_folder
from midi2wave.data.crops import Crops
from midi2wave.data.processed_folder import ProcessedFolder, Row
from midi2wave.midi import reader as midi_reader
from midi2wave.midi.performance import clip, load_events, save_events, sounding_offset
from midi2wave.plotting import figures
from midi2wave.utils.errors import InputError

SECONDS, MEGABYTES = 5.0, 500
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXTREME = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"\x00" * 8]
TEXTS = [
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b'"',
    b",",
    b"\n",
    b"{",
    b"[" * 3000,
    b"null",
    b"../",
    b"/etc/passwd",
    b"\\",
    b"..",
    b"\x00",
    b"\xc3",
    b"x" * 300,
    "\u202e\U0001f3b9".encode(),
    b"true",
]


PLAIN_SOUNDS = [
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("AIFF", "PCM_24"), ("W64", "PCM_16"), ("RF64", "PCM_32")),
    *(("CAF", "DOUBLE"), ("AU", "PCM_16")),
]
COMPRESSED_SOUNDS = [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


class TooSlow(BaseException):
    """No reader may catch it."""


@dataclass(frozen=True)
class Target:
    """A kind of file: whole ones, what a reader does with a mutated one, and its part of all cases."""

    seeds: list[bytes]
    check: Callable[[bytes, Path], None]
    share: float
    extremes: list[bytes]


# ---- whole files to begin with


def midi_seeds() -> list[bytes]:
    """The example, and small files of every type with pedals, running status, tempi, SMPTE time, texts and sysex."""
    note = b"\x00\x90\x3c\x40\x83\x60\x3c\x00\x00\x40\x50\x10\x40\x00"
    rest = (
        b"\x00\xb0\x40\x7f\x10\xff\x51\x03\x07\xa1\x20\x00\xff\x01\x03\xe9\xff\x00\x00\xf0\x02\x01\xf7\x8f\xff\xff\x7f"
    )
    rest += b"\x90\x45\x30\x10\x80\x45\x00\x00\xb0\x40\x00\x00\x42\x7f\x00\x43\x01"
    end, files = b"\x00\xff\x2f\x00", []
    for kind, division, tracks in (
        (0, 480, [note]),
        (1, 96, [rest, note]),
        (2, 0xE728, [note, rest]),
        (1, 1, [note * 9]),
    ):
        head = b"MThd\0\0\0\6" + b"".join(n.to_bytes(2, "big") for n in (kind, len(tracks), division))
        files.append(head + b"".join(b"MTrk" + len(t + end).to_bytes(4, "big") + t + end for t in tracks))
    return [*files, *(path.read_bytes()[:6000] for path in sorted(EXAMPLES.glob("*.mid")))]


def sounds(kinds: list[tuple[str, str]]) -> list[bytes]:
    """A twentieth of a second in several containers and sample formats."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2))
    files = []
    for container, subtype in kinds:
        for hz, channels in ((16000, 1), (48000 if subtype == "OPUS" else 44100, 2)):
            written = io.BytesIO()
            soundfile.write(written, samples[:, :channels], hz, format=container, subtype=subtype)
            files.append(written.getvalue())
    return files


def metadata_rows() -> list[dict]:
    """Two recordings that are there and one that is not."""
    return [
        {
            "canonical_composer": "Frédéric Chopin",
            "canonical_title": 'Étude, "Op. 10"',
            "split": split,
            "year": 2004,
            "midi_filename": f"2004/{i}.midi",
            "audio_filename": f"2004/{i}.wav",
            "duration": 0.05,
        }
        for i, split in enumerate(("train", "validation", "test"))
    ]


def metadata_csv() -> bytes:
    """The metadata as CSV."""
    lines = [",".join(maestro.COLUMNS)]
    lines += [",".join('"' + str(v).replace('"', '""') + '"' for v in row.values()) for row in metadata_rows()]
    return "\n".join(lines).encode()


def metadata_jsons() -> list[bytes]:
    """The metadata in both forms of JSON."""
    rows = metadata_rows()
    columns = {name: {str(i): row[name] for i, row in enumerate(rows)} for name in maestro.COLUMNS}
    return [json.dumps(rows).encode(), json.dumps(columns, ensure_ascii=False).encode()]


# ---- what is done with a mutated one


def check_midi(data: bytes, box: Path) -> None:
    """Read it, compute with it, save it, and load it again."""
    path = box / "x.mid"
    path.write_bytes(data)
    performance = midi_reader.read_midi(path)
    assert np.isfinite(performance.onset).all() and np.isfinite(performance.offset).all()
    assert (performance.onset >= 0).all() and (np.diff(performance.onset) >= 0).all()
    assert (performance.offset >= performance.onset).all() and (sounding_offset(performance) > -1).all()
    assert performance.pitch.min() >= 21 and performance.pitch.max() <= 108
    assert performance.velocity.min() >= 1 and performance.velocity.max() <= 127
    notes = NoteConditioning(performance, DataConfig(audio_hz=16000, midi_hz=250, features=["note_state"]))
    for second in (0.0, float(performance.onset[-1])):
        features = notes.features(int(second * 250) - 2, 5)
        assert features.min() >= 0 and features.max() <= 1
    save_events(box / "x.npz", clip(performance, 0.1, 2.0, margin=1.0))
    load_events(box / "x.npz")


def check_audio(data: bytes, box: Path) -> None:
    """Resample it and read the result; a refused one leaves nothing."""
    source, target = box / "x.wav", box / "out.wav"
    target.unlink(missing_ok=True)
    source.write_bytes(data)
    try:
        made = audio_io.resample_file(source, target, 16000)
        assert len(audio_io.read_pcm(target, 16000)) == round(made.seconds * 16000) > 0
    except InputError:
        assert not target.exists()
    audio_io.read_pcm(source, 16000)


def check_metadata(name: str) -> Callable[[bytes, Path], None]:
    """Run both commands on a folder with this metadata file."""

    def check(data: bytes, box: Path) -> None:
        folder = box / "maestro"
        if not folder.is_dir():
            for i in range(2):
                (folder / "2004").mkdir(parents=True, exist_ok=True)
                (folder / f"2004/{i}.midi").write_bytes(midi_seeds()[0])
                (folder / f"2004/{i}.wav").write_bytes(sounds([("WAV", "PCM_16")])[1])
        for other in folder.glob("maestro-v*"):
            other.unlink()
        (folder / name).write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert resample_audio.main(["-d", str(folder), "--json"]) in (0, 1, 2)
            values = {"maestro_dir": folder, "out_dir": box / "data", "split": "all"}
            options = [f"--set=preprocess_config.{key}={value}" for key, value in values.items()]
            assert preprocess_maestro.main([*options, "--json", "--force"]) in (0, 1, 2)

    return check


def write_processed(folder: Path) -> list[Path]:
    """A processed folder of two recordings; returns its files."""
    processed_folder.begin_folder(folder, {"preprocess_config": {"audio_hz": 16000}}, force=False)
    performance = midi_reader.read_midi(EXAMPLES / "prelude.mid")
    rows = []
    for i in range(2):
        row = Row(i, f"2004/{i}.wav", f"2004/{i}.midi", "train", 2004, 0.25, 4000, 3, "Chopin", "Étude")
        processed_folder.write_recording(folder, row, np.arange(4000).astype(np.int16), clip(performance, 0, 1))
        rows.append(row)
    processed_folder.finish_folder(folder, rows)
    return sorted(folder.iterdir())


def check_processed(data: bytes, box: Path) -> None:
    """One file of a processed folder replaced: open it, and take crops of all that it holds."""
    folder = box / "processed"
    if not folder.is_dir():
        write_processed(folder)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    path = sorted(folder.iterdir())[data[0] % len(whole)]
    path.write_bytes(data[1:])
    try:
        recording = maestro.Recording(0, "", "", "train", 2004, "2004/0.midi", "2004/0.wav", 0.25)
        with contextlib.suppress(InputError):
            processed_folder.read_finished(folder, recording, {})
        config = DataConfig(segment_length=0.1)
        opened = ProcessedFolder(folder)
        crops = Crops(opened, config, context_frames=(2, 2), n_previous=9, codes=False, seed=0)
        for i in range(4):
            assert crops[i]["samples"].shape == (1600,)
    finally:
        for each, content in whole.items():
            each.write_bytes(content)


def preprocess(folder: Path) -> int:
    """Run preprocess_maestro.py on a folder with a recording of ours, which is made first; returns its exit code."""
    source = folder / "maestro"
    if not source.is_dir():
        (source / "2004").mkdir(parents=True)
        (source / "maestro-v3.0.0.csv").write_bytes(metadata_csv())
        (source / "2004/0.midi").write_bytes(midi_seeds()[0])
        (source / "2004/0_16000.wav").write_bytes(sounds([("WAV", "PCM_16")])[0])
        for path in (source / "2004").iterdir():
            os.utime(path, ns=(10**18, 10**18))  # what is stored of them must be the same in every folder
    options = [f"--set=preprocess_config.maestro_dir={source}", f"--set=preprocess_config.out_dir={folder}/data"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return preprocess_maestro.main(options)


def check_stored(data: bytes, box: Path) -> None:
    """What is known of a recording that was done replaced: it is believed, or (counted as refused) done again."""
    stored = box / "stored/data/0.json"
    if not stored.is_file():
        assert preprocess(box / "stored") == 0
    whole = stored.read_bytes()
    stored.write_bytes(data)
    try:
        assert preprocess(box / "stored") == 0
        assert len(ProcessedFolder(stored.parent).pcm(0)) == 800
        if stored.read_bytes() != data:
            raise InputError("not believed: the recording was done again")
    finally:
        stored.write_bytes(whole)


def stored_seeds() -> list[bytes]:
    """What is known of a recording that was done: whole, of another, or with one value replaced."""
    save, figures.save_figure = figures.save_figure, lambda path, _: path.write_bytes(b"a picture")
    try:
        with tempfile.TemporaryDirectory() as folder:
            assert preprocess(Path(folder)) == 0
            stored = json.loads((Path(folder) / "data/0.json").read_bytes())
    finally:
        figures.save_figure = save
    others = ([], {}, "x", ["hello"], None, -1, float("nan"), 10**400)
    made = [{**stored, name: other} for name in stored for other in others]
    made += [{**stored, "facts": {**stored["facts"], name: other}} for name in stored["facts"] for other in others]
    made += [{**stored, name: "another"} for name in ("audio_filename", "midi_filename", "split")] * 10
    made += [stored] * 10
    return [json.dumps(values).encode() for values in made]


def processed_seeds() -> list[bytes]:
    """Every file of a processed folder, with its number in front."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_processed(Path(folder) / "processed")
        return [bytes([i]) + path.read_bytes() for i, path in enumerate(paths)]


def targets() -> dict[str, Target]:
    """All kinds of files."""
    return {
        "midi": Target(midi_seeds(), check_midi, 0.35, EXTREME),
        "wav": Target(sounds(PLAIN_SOUNDS), check_audio, 0.2, EXTREME),
        "flac": Target(sounds(COMPRESSED_SOUNDS), check_audio, 0.15, EXTREME),
        "csv": Target([metadata_csv()], check_metadata("maestro-v3.0.0.csv"), 0.08, TEXTS),
        "json": Target(metadata_jsons(), check_metadata("maestro-v3.0.0.json"), 0.08, TEXTS),
        "processed": Target(processed_seeds(), check_processed, 0.08, EXTREME + TEXTS),
        "stored": Target(stored_seeds(), check_stored, 0.06, TEXTS),
    }


# ---- mutation, limits and the loop


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes], extremes: list[bytes]) -> bytes:
    """A whole file with up to eight changes; the beginning, where headers are, is hit as often as all the rest."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 8]))):
        reach = draw(st.sampled_from([64, len(data)]))
        at = draw(st.integers(0, max(0, min(reach, len(data)) - 1)))
        kind = draw(st.sampled_from(["set", "flip", "extreme", "insert", "delete", "repeat", "cut"]))
        length = draw(st.integers(1, 40))
        if kind == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "extreme":
            piece = draw(st.sampled_from(extremes))
            data[at : at + draw(st.sampled_from([0, len(piece)]))] = piece
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 20))
        elif draw(st.integers(0, 3)) == 0:
            del data[at:]
    return bytes(data) or b"\x00"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Memory limited to MEGABYTES more than now; no waiting for the disk; no pictures, which are not what is tested."""

    def too_slow(*_):
        raise TooSlow(f"more than {SECONDS} s")

    with open("/proc/self/statm") as handle:
        pages = int(handle.read().split()[0])
    import resource

    before, alarm = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, too_slow)
    sync, save = os.fsync, figures.save_figure
    os.fsync, figures.save_figure = lambda _: None, lambda path, _: path.write_bytes(b"a picture")
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (MEGABYTES << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, alarm)
        os.fsync, figures.save_figure = sync, save


def run(target: Target, n_cases: int, seed: int | None) -> dict[str, int]:
    """Run cases of one target; returns how many were read and refused. Raises what a reader must not raise."""
    counts = {"read": 0, "refused": 0}

    with tempfile.TemporaryDirectory() as folder:
        box = Path(folder) / "box"
        box.mkdir()
        canary = Path(folder) / "canary.wav"
        canary.write_bytes(b"nobody's business")

        @hypothesis.settings(
            max_examples=n_cases,
            deadline=None,
            database=None,
            derandomize=seed is None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )
        @hypothesis.given(mutated(target.seeds, target.extremes))
        def case(data: bytes) -> None:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                target.check(data, box)
                counts["read"] += 1
            except InputError as refusal:
                assert str(refusal) and "\n" not in str(refusal), repr(str(refusal))
                counts["refused"] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert sorted(os.listdir(folder)) == ["box", "canary.wav"], "something was written outside"
            assert not [path for path in box.rglob("*.partial")], "half a file was left"

        if seed is not None:
            case = hypothesis.seed(seed)(case)
        with limited():
            case()
        assert canary.read_bytes() == b"nobody's business"
    return counts


def main() -> None:
    """Run many cases of every target and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="of all kinds together (default %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--only", choices=list(targets()), help="one kind of file")
    args = parser.parse_args()
    selected = {name: target for name, target in targets().items() if args.only in (None, name)}
    total_share = sum(target.share for target in selected.values())
    total = 0
    for name, target in selected.items():
        started, n_cases = time.monotonic(), round(args.cases * target.share / total_share)
        counts = run(target, n_cases, args.seed)
        total += sum(counts.values())
        print(
            f"{name}: {counts['read']} read, {counts['refused']} refused, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    print(f"{total} cases, seed {args.seed}: nothing but files read and files refused")


if __name__ == "__main__":
    sys.exit(main())
