"""Four recordings, a tiny base, and the options of a fine-tuning of some steps."""

import pytest

from tests.helpers.short_finetuning import shorten, write_recordings
from tests.helpers.tiny_base import write_tiny_base


@pytest.fixture(autouse=True)
def short(monkeypatch):
    shorten(monkeypatch)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny.safetensors")


@pytest.fixture
def arguments(recordings, base, tmp_path):
    return ["-d", recordings, "-o", tmp_path / "mine", "--base", base, "--minutes", "0.02", "--device", "cpu"]
