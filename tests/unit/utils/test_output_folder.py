"""Output folders: which are accepted, and what --force removes of them."""

import json
from pathlib import Path

import pytest

from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import PRODUCTS_KEY, OutputFolder, Product, acquire_output_dir

RECORD = {"b": 1, "a": ["é", None]}
PRODUCTS = {"products": r"[^/]+\.wav|index\.html|\d+/\d+\.midi", "force_effect": "removes all of it"}


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_new_or_empty_folder_is_acquired_and_resumed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").write_text("hidden files are nobody's work")
    for folder in (tmp_path / "new", tmp_path / "empty"):
        acquire_output_dir(folder, "record.json", RECORD, **PRODUCTS, force=False)
        assert json.loads((folder / "record.json").read_text(encoding="utf-8")) == RECORD
        (folder / "a.wav").write_text("done")
        acquire_output_dir(folder, "record.json", dict(reversed(RECORD.items())), **PRODUCTS, force=False)
        assert (folder / "a.wav").read_text() == "done"


@pytest.mark.parametrize("there", [b'{"b": 2}', b"", b"\xff\xfe\x00"])
def test_folder_with_another_record_is_refused(tmp_path, there):
    (tmp_path / "record.json").write_bytes(there)
    (tmp_path / "a.wav").write_text("made from it")
    with pytest.raises(InputError, match=r"another config .*--force"):
        acquire_output_dir(tmp_path, "record.json", RECORD, **PRODUCTS, force=False)
    assert (tmp_path / "record.json").read_bytes() == there


def test_folder_with_files_of_others_is_refused(tmp_path):
    """Also with --force, which would otherwise remove a user's own wavs."""
    for name in ("thesis.txt", "a.wav"):
        (tmp_path / name).write_text("x")
    for force in (False, True):
        with pytest.raises(InputError, match=r"is not empty, .* choose another folder"):
            acquire_output_dir(tmp_path, "record.json", RECORD, **PRODUCTS, force=force)
    assert names(tmp_path) == {"thesis.txt", "a.wav"}


def test_two_shards_acquire_a_new_folder_together(tmp_path, monkeypatch):
    """The other one's record and first product appear just before the folder is listed."""
    iterdir = Path.iterdir

    def late(folder):
        monkeypatch.setattr(Path, "iterdir", iterdir)
        acquire_output_dir(folder, "record.json", RECORD, **PRODUCTS, force=False)
        (folder / "a.wav").write_text("done")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", late)
    acquire_output_dir(tmp_path, "record.json", RECORD, **PRODUCTS, force=False)
    assert names(tmp_path) == {"record.json", "a.wav"}


def test_record_without_products_is_replaced(tmp_path):
    """A config with a mistake, corrected after every item failed, needs no --force."""
    acquire_output_dir(tmp_path, "record.json", {"other": 1}, **PRODUCTS, force=False)
    acquire_output_dir(tmp_path, "record.json", RECORD, **PRODUCTS, force=False)
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == RECORD


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "x").write_text("x")
    for force in (False, True):
        with pytest.raises(InputError, match="is a file, expected a folder"):
            acquire_output_dir(tmp_path / "x", "record.json", RECORD, **PRODUCTS, force=force)


def test_force_removes_products_and_nothing_else(tmp_path):
    acquire_output_dir(tmp_path, "record.json", {"other": 1}, **PRODUCTS, force=False)
    (tmp_path / "2004").mkdir()
    for name in ("a.wav", "index.html", "thesis.txt", "2004/1.midi", "2004/mine.midi"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="or use --force, which removes all of it"):
        acquire_output_dir(tmp_path, "record.json", RECORD, **PRODUCTS, force=False)
    acquire_output_dir(tmp_path, "record.json", RECORD, **PRODUCTS, force=True)
    assert names(tmp_path) == {"record.json", "thesis.txt", "2004"} and names(tmp_path / "2004") == {"mine.midi"}
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == RECORD


# ---- folders with results of single pieces


def product(name, **made_from) -> Product:
    return Product((f"{name}.wav", f"{name}.png"), made_from)


def make(folder, *pieces, record=RECORD, force=False, **options) -> dict[str, str]:
    """One call of a command that makes these pieces; the pieces that it is refused, with the reasons."""
    products = dict(piece if isinstance(piece, tuple) else (piece, product(piece)) for piece in pieces)
    output = OutputFolder(folder, "record.json", record, force=force, shared=("index.html",), **options)
    refused = output.begin(products)
    for name in products.keys() - refused.keys():
        for file in products[name].files:
            path = folder / file
            path.write_text(path.read_text() + "+" if path.exists() else json.dumps(record))
    (folder / "index.html").write_text(", ".join(output.products))
    return refused


def test_force_makes_only_the_pieces_of_the_call_again(tmp_path):
    assert not make(tmp_path, "prelude", "fugue")
    (tmp_path / "my_own_recording.wav").write_text("mine")
    assert not make(tmp_path, "fugue", "song", force=True)
    assert (tmp_path / "my_own_recording.wav").read_text() == "mine"
    texts = {name: (tmp_path / f"{name}.wav").read_text() for name in ("prelude", "fugue", "song")}
    assert set(texts.values()) == {json.dumps(RECORD)}  # None of them was appended to: the fugue was removed first.
    assert (tmp_path / "index.html").read_text() == "prelude, fugue, song"
    assert not make(tmp_path, "prelude")
    assert (tmp_path / "prelude.wav").read_text() == json.dumps(RECORD) + "+"


def test_results_of_other_settings_stay_and_are_not_done(tmp_path):
    other = {"seed": 2}
    make(tmp_path, "prelude", "fugue")
    with pytest.raises(InputError, match="which makes the pieces of this call again and removes nothing else"):
        make(tmp_path, "song", record=other)
    assert not make(tmp_path, "fugue", record=other, force=True)
    assert [(tmp_path / f"{name}.wav").read_text() for name in ("prelude", "fugue")] == [
        json.dumps(RECORD),
        json.dumps(other),
    ]
    refused = make(tmp_path, "prelude", "fugue", record=other)
    assert refused.keys() == {"prelude"} and "holds prelude.wav of other settings" in refused["prelude"]
    with pytest.raises(InputError, match="another config"):
        make(tmp_path, "prelude")  # Of the settings that it was made with; the folder's are others now.
    assert not make(tmp_path, "prelude", record=other, force=True)
    assert not make(tmp_path, "prelude", "fugue", record=other)


def test_files_of_the_user_are_not_overwritten(tmp_path):
    make(tmp_path, "prelude")
    (tmp_path / "song.wav").write_text("mine")
    for force in (False, True):
        refused = make(tmp_path, "prelude", "song", force=force)
        assert refused.keys() == {"song"} and "song.wav is there and this command did not make it" in refused["song"]
        assert (tmp_path / "song.wav").read_text() == "mine"


def test_results_of_other_sources_are_kept_until_force(tmp_path):
    make(tmp_path, ("song", product("song", notes="1")))
    refused = make(tmp_path, ("song", product("song", notes="2")))
    assert "song.wav of other notes; choose another folder, or use --force, which" in refused["song"]
    refused = make(tmp_path, ("song", product("song", codes="1")))
    assert "song.wav of other notes" in refused["song"]
    refused = make(tmp_path, ("song", product("song", notes="1", audio="1")))
    assert not refused  # An earlier version stored no checksum of the recording.
    refused = make(tmp_path, ("song", product("song", notes="1", audio="2")))
    assert "song.wav of other audio;" in refused["song"]
    assert not make(tmp_path, ("song", product("song", notes="2")), force=True)
    (tmp_path / "song.wav").unlink()  # As after an interruption: nothing is lost.
    assert not make(tmp_path, ("song", product("song", notes="3")))
    assert (tmp_path / "song.png").read_text() == json.dumps(RECORD)


def test_a_rerun_writes_no_record(tmp_path):
    make(tmp_path, "a", "b")
    before = (tmp_path / "record.json").stat().st_mtime_ns
    make(tmp_path, "b", "a")
    assert (tmp_path / "record.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("listed", [[{"name": "a", "files": ["../a.wav"]}], [{"name": "a", "files": ["/a.wav"]}], 3])
def test_a_crafted_record_removes_nothing_elsewhere(tmp_path, listed):
    folder = tmp_path / "out"
    make(folder, "a")
    (tmp_path / "a.wav").write_text("elsewhere")
    (folder / "record.json").write_text(json.dumps({**RECORD, PRODUCTS_KEY: listed}))
    make(folder, "a", force=True)
    assert (tmp_path / "a.wav").read_text() == "elsewhere"


@pytest.mark.parametrize("there", [b"", b"[1]", b"\xff\xfe\x00"])
def test_a_damaged_record_is_refused_as_of_another_config(tmp_path, there):
    def former(folder, record):
        assert record == {}
        return {path.stem: product(path.stem) for path in folder.glob("*.wav")}

    make(tmp_path, "a", "b")
    (tmp_path / "record.json").write_bytes(there)
    with pytest.raises(InputError, match="another config"):
        make(tmp_path, "a", former=former)
    assert not make(tmp_path, "a", former=former, force=True)
    assert (tmp_path / "b.wav").exists() and (tmp_path / "a.wav").read_text() == json.dumps(RECORD)


def test_folders_of_former_versions_are_listed(tmp_path):
    """Their record does not list any files."""
    for name in ("a.wav", "a.png", "b.wav", "mine.wav"):
        (tmp_path / name).write_text("former")
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    assert not make(tmp_path, "b", former=lambda *_: {"a": product("a")})
    stored = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in stored.pop(PRODUCTS_KEY)] == ["a", "b"] and stored == RECORD
    assert (tmp_path / "b.wav").read_text() == "former+"
    assert "did not make it" in make(tmp_path, "mine")["mine"]


def test_a_set_is_replaced_as_a_whole(tmp_path):
    """The test clips of a folder: clips of other settings among them would be evaluated with them."""
    make(tmp_path, "a", "b")
    (tmp_path / "mine.wav").write_text("mine")
    for record, left in ((RECORD, {"a.wav", "a.png", "b.wav", "b.png", "mine.wav"}), ({"seed": 2}, {"mine.wav"})):
        output = OutputFolder(tmp_path, "record.json", record, force=record != RECORD)
        output.remove_outdated()
        assert names(tmp_path) == {"record.json", "index.html", *left}
