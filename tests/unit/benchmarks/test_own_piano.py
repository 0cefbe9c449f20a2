"""The table of finished fine-tunings."""

import json

import pytest

from benchmarks import own_piano
from tests.helpers.pipeline import assert_refused, call


def write_result(folder, seconds, steps, distance, names=("a", "b")):
    measure = {
        "base": 2.0,
        "fine_tuned": distance,
        "difference": distance - 2,
        "interval": [-0.6, -0.1],
        "topline": 0.0,
    }
    noise = {"base": 4.0, "fine_tuned": 6.0, "difference": 2.0, "interval": None}
    phases = {
        "data": {"splits": {"train": {"seconds": seconds}}},
        "training": {"step": steps},
        "blending": {"share": 0.5},
        "comparison": {"names": list(names), "measures": {"mrstft": measure, "noise_excess_db": noise}},
    }
    folder.mkdir()
    (folder / "finetune.json").write_text(json.dumps({"settings": {}, "phases": phases}))
    return folder


def test_table_and_picture(tmp_path):
    folders = [write_result(tmp_path / str(n), 60.0 * n, 100 * n, 1.9 - n / 100) for n in (10, 2)]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{own_piano.BEGIN}\nold\n{own_piano.END}\nafter\n")
    done = call(own_piano, *folders, "--page", page, "--out", tmp_path / "picture.png")
    assert done.code == 0, done.err
    lines = page.read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows == [
        "| recordings, minutes | steps | share | STFT distance | noise excess, dB |",
        "| --- | --- | --- | --- | --- |",
        "|  |  | topline | 0.000 |  |",
        "| 0: the base | 0 |  | 2.000 | 4.0 |",
        "| 2.0 | 200 | 0.5 | 1.880 (-0.600 .. -0.100) | 6.0 |",
        "| 10.0 | 1000 | 0.5 | 1.800 (-0.600 .. -0.100) | 6.0 |",
    ]
    assert "old" not in lines and lines[0] == "before" and lines[-1] == "after"
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["unfinished", "other clips"])
def test_what_cannot_be_compared_is_refused(tmp_path, kind):
    one = write_result(tmp_path / "one", 60.0, 1, 1.9)
    other = tmp_path / "other"
    if kind == "unfinished":
        other.mkdir()
        (other / "finetune.json").write_text('{"settings": {}, "phases": {}}')
    else:
        write_result(other, 60.0, 1, 1.9, ("a", "c"))
    words = "no finished fine-tuning" if kind == "unfinished" else "different test clips"
    assert_refused(call(own_piano, one, other), words)
