"""MAESTRO's metadata: the official files of every version, and the ways in which a copy can be broken."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from midi2wave.data import maestro
from midi2wave.utils.errors import InputError
from tests.helpers.paths import SHARED

DATA = SHARED / "data"
OFFICIAL = DATA / "maestro-metadata"
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official metadata is not at hand (../shared/data/maestro-metadata)"
)

ROWS = [
    {
        "canonical_composer": "Frédéric Chopin",
        "canonical_title": 'Étude, "Op. 10" No. 3',
        "split": split,
        "year": 2004 + number,
        "midi_filename": f"2004/{number}.midi",
        "audio_filename": f"2004/{number}.wav",
        "duration": 1.5 + number,
    }
    for number, split in enumerate(["train", "test", "train", "validation"] * 3)
]


def csv_text(rows: list[dict]) -> str:
    lines = [",".join(maestro.COLUMNS)]
    lines += [",".join('"' + str(value).replace('"', '""') + '"' for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def written(folder: Path, text: str, name: str = "maestro-v2.0.0.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def changed(**values) -> list[dict]:
    return [ROWS[0], {**ROWS[1], **values}]


@needs_official
@pytest.mark.parametrize(("version", "counts"), [(1, (954, 105, 125)), (2, (967, 137, 178)), (3, (962, 137, 177))])
def test_official_files(tmp_path, version, counts):
    read = {}
    for suffix in ("csv", "json"):
        (tmp_path / suffix).mkdir()
        shutil.copy(OFFICIAL / f"maestro-v{version}.0.0.{suffix}", tmp_path / suffix)
        read[suffix] = maestro.read_metadata(tmp_path / suffix)
        assert tuple(len(maestro.select_split(read[suffix], split)) for split in maestro.SPLITS) == counts
    # the official v3 CSV quotes seven titles twice, its JSON does not
    plain = {
        suffix: [dataclasses.replace(recording, title=recording.title.strip('"')) for recording in recordings]
        for suffix, recordings in read.items()
    }
    assert plain["csv"] == plain["json"]


@needs_official
def test_several_versions_are_refused():
    with pytest.raises(InputError, match=r"several versions .*maestro-v1\.0\.0\.csv.*maestro-v3\.0\.0\.json"):
        maestro.read_metadata(OFFICIAL)


def test_three_formats_are_read_alike(tmp_path):
    columns = {name: {str(number): row[name] for number, row in enumerate(ROWS)} for name in maestro.COLUMNS}
    texts = {"maestro-v1.0.0.json": json.dumps(ROWS), "maestro-v3.0.0.json": json.dumps(columns)}
    texts["maestro-v2.0.0.csv"] = "\ufeff" + csv_text(ROWS)
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        read = maestro.read_metadata(written(tmp_path / name, text, name))
        assert [recording.index for recording in read] == list(range(12))
        assert [dataclasses.astuple(recording)[1:] for recording in read] == [tuple(row.values()) for row in ROWS]


def test_csv_is_preferred_to_json(tmp_path):
    written(tmp_path, json.dumps(ROWS), "maestro-v2.0.0.json")
    assert len(maestro.read_metadata(written(tmp_path, csv_text(ROWS[:5])))) == 5


def test_split_keeps_the_row_numbers(tmp_path):
    recordings = maestro.read_metadata(written(tmp_path, csv_text(ROWS)))
    assert [recording.index for recording in maestro.select_split(recordings, "test")] == [1, 5, 9]
    assert maestro.select_split(recordings, "all") == recordings
    with pytest.raises(InputError, match="'valid'; expected one of train, validation, test, all"):
        maestro.select_split(recordings, "valid")


def test_folders_without_metadata(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        maestro.read_metadata(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"looked for maestro-v\*\.csv and maestro-v\*\.json, the folder is empty"):
        maestro.read_metadata(tmp_path)
    assert maestro.find_metadata(tmp_path) is None
    (tmp_path / "x.wav").touch()
    with pytest.raises(InputError, match="no such file there"):
        maestro.read_metadata(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is broken: missing columns canonical_composer, .* \\(found: none\\)"),
        (csv_text([]), "lists no recordings"),
        (csv_text(ROWS).replace("year,", "Year,", 1), r"missing columns year \(found: .*Year"),
        (csv_text(ROWS) + '"Erik Satie","Gymn', "is broken: unexpected end of data"),
        (csv_text(ROWS[:2]) + "Erik Satie,Gymnopédie No. 1\n", "line 4 does not have 7 fields"),
        (csv_text(ROWS[:2]) + "a,b,train,2004,c,d,1.0,more\n", "line 4 does not have 7 fields"),
        (csv_text(changed(split="dev")), "recording 1: split is 'dev', expected one of train, validation, test"),
        (csv_text(changed(year="MMIV")), "recording 1: year is 'MMIV', expected a whole number"),
        (csv_text(changed(duration="nan")), "recording 1: duration is 'nan', expected seconds above 0"),
        (csv_text(changed(duration=0)), "recording 1: duration is '0', expected seconds above 0"),
        (csv_text(changed(audio_filename="")), "recording 1: audio_filename is '', expected a file name"),
    ],
)
def test_broken_csv(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        maestro.read_metadata(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\0" * 100_000, "it has 100000 zero bytes among its 100000 characters"),
        ("<!DOCTYPE html>\n<p>" + "not found " * 10_000, "it is a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "it is a git-lfs pointer"),
        ("x" * 100_000, "missing columns canonical_composer"),
        (",".join("abc" * 1000) + "\n", "missing columns canonical_composer"),
        (csv_text(changed(year="x" * 100_000)), "recording 1: year is 'xxx"),
        (csv_text(ROWS).replace(",", ";"), "its columns are separated by ';', save it with commas"),
        (csv_text(ROWS).replace("split,", "split ,", 1), "missing columns split .*'split '"),
    ],
)
@pytest.mark.parametrize("name", ["maestro-v3.0.0.csv", "maestro-v3.0.0.json"])
def test_messages_stay_short(tmp_path, text, words, name):
    with pytest.raises(InputError, match=words if name.endswith("csv") else "is broken") as refused:
        maestro.read_metadata(written(tmp_path, text, name))
    assert len(str(refused.value)) < 1000 and "\n" not in str(refused.value)


def test_space_after_commas(tmp_path):
    plain = maestro.read_metadata(written(tmp_path, csv_text(ROWS)))
    lines = [line.replace('","', '", "') for line in csv_text(ROWS).splitlines()]
    lines[0] = lines[0].replace(",", ", ")
    assert maestro.read_metadata(written(tmp_path, "\n".join(lines))) == plain
    # Elsewhere a space belongs to the value.
    title = maestro.read_metadata(written(tmp_path, csv_text(changed(canonical_title=" Étude"))))[1].title
    assert title == " Étude"


def without(name: str) -> dict:
    return {key: value for key, value in ROWS[0].items() if key != name}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "is broken: Expecting property name"),
        ("7", "expected a list of rows or an object of columns"),
        ("[]", "lists no recordings"),
        ("[1]", "expected a list of objects"),
        (json.dumps([ROWS[0], without("year")]), "missing columns year"),
        (json.dumps({name: {"0": 1} for name in maestro.COLUMNS[1:]}), "missing columns canonical_composer"),
        (json.dumps({name: [1] for name in maestro.COLUMNS}), "column canonical_composer is not an object"),
        (json.dumps({**{name: {"0": 1} for name in maestro.COLUMNS}, "year": {"1": 1}}), "column year is not"),
        (json.dumps(changed(year=None)), "recording 1: year is None"),
        (json.dumps(changed(duration=[1])), r"recording 1: duration is \[1\]"),
        (json.dumps(changed(canonical_title=3)), "recording 1: canonical_title is 3, expected text"),
    ],
)
def test_broken_json(tmp_path, data, words):
    with pytest.raises(InputError, match=words):
        maestro.read_metadata(written(tmp_path, data, "maestro-v3.0.0.json"))


def test_metadata_in_another_encoding(tmp_path):
    (tmp_path / "maestro-v2.0.0.csv").write_bytes(csv_text(ROWS).encode("latin-1"))
    with pytest.raises(InputError, match="is broken: 'utf-8' codec"):
        maestro.read_metadata(tmp_path)


def test_resampled_names():
    assert maestro.resampled_name("2008/x.wav", 16000) == "2008/x_16000.wav"
    assert maestro.resampled_name("a.b/Op. 5 No. 1.flac", 8000) == "a.b/Op. 5 No. 1_8000.wav"


def test_names_that_leave_the_folder_are_refused(tmp_path):
    assert maestro.inside(tmp_path, "2008/x..y.wav") == tmp_path / "2008" / "x..y.wav"
    assert maestro.inside(tmp_path, "I: Allegro.wav") == tmp_path / "I: Allegro.wav"
    for name in ("../x.wav", "2008/../../x.wav", "/etc/passwd", "..\\x.wav", "C:\\x.wav", "", ".", "x\0.wav"):
        with pytest.raises(InputError, match="does not name a file inside"):
            maestro.inside(tmp_path, name)
