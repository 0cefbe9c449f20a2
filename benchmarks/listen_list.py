"""The list of what the listening page of the documentation plays: `benchmarks/listen.toml`.

It has four kinds of tables, [KIND.NAME]: models, pianos (what the models imitate), pieces, and clips. A clip is a piece
played by a model, and by a piano where one can be had.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from midi2wave.config import (
    DEFAULT_HISTORY_LEVEL,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEMPERATURE,
    MIN_HISTORY_LEVEL,
    SamplingMethod,
)
from midi2wave.data.sampled_instrument import SampledInstrument, load_instrument
from midi2wave.data.synthesizers import RENDERERS, Instrument, find_instrument
from midi2wave.utils.errors import InputError
from midi2wave.utils.typed_config import BLOCK, Schema

MAX_CLIP_SECONDS = 30
# The default of render_midi.py, which the data of the models were made with.
GAIN = 0.7
# A name is a part of file names and of links.
NAME = re.compile(r"[a-z0-9_]+")


@dataclass(kw_only=True, config=BLOCK)
class Licensed:
    """What a sound on the page is made with."""

    file: str
    """its file"""
    title: str
    """what it is, for people"""
    licence: str = Field(min_length=1)
    """licence of the sound that is made with it"""
    licence_url: str = Field(pattern="^https://")
    """where that licence stands"""
    attribution: str = Field(min_length=1)
    """who is to be named, and for what"""


@dataclass(kw_only=True, config=BLOCK)
class Model(Licensed):
    """Weights, and the settings that they are played with."""

    temperature: float = Field(gt=0, le=MAX_TEMPERATURE)
    """temperature of the samples"""
    sampling: SamplingMethod = "random"
    """how samples are taken from their distributions"""
    guidance: float = Field(ge=0, le=MAX_GUIDANCE)
    """scale of classifier-free guidance"""
    history_level: float = Field(default=DEFAULT_HISTORY_LEVEL, ge=MIN_HISTORY_LEVEL, le=0)
    """how disturbed the model takes its own past samples to be, in dB, for a model that was trained with that input"""
    global_labels: list[str] = Field(default_factory=list)
    """labels COLUMN=VALUE, for a model that was trained with them"""
    training_data: str
    """what it was trained on"""
    training_pieces: list[str] = Field(default_factory=list)
    """names of the pieces of this list that were in its training data, in whatever performance"""


@dataclass(kw_only=True, config=BLOCK)
class Piano(Licensed):
    """What renders the truth: a soundfont or an SFZ instrument."""

    renderer: Literal["tinysoundfont", "fluidsynth", "sampler"]
    """what plays it; models that were trained on FluidSynth's sound are compared with that"""


@dataclass(kw_only=True, config=BLOCK)
class MusicPiece:
    """A MIDI file."""

    file: str
    """the file"""
    title: str
    """composer, title and part"""
    licence: str = Field(min_length=1)
    """why its notes may be published"""


@dataclass(kw_only=True, config=BLOCK)
class ListedClip:
    """One entry of the page."""

    piece: str
    """name of a piece"""
    model: str
    """name of a model"""
    piano: str | None = None
    """name of the piano that the model imitates; left out: there is no truth that may be published"""
    seconds: float = Field(gt=0, le=MAX_CLIP_SECONDS)
    """length, from the beginning of the piece"""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """seed of the model's samples"""


KINDS = {"models": Model, "pianos": Piano, "pieces": MusicPiece, "clips": ListedClip}


@plain_dataclass(frozen=True)
class ClipList:
    """The whole list; each table by its name, in the order of the file."""

    models: dict[str, Model] = field(default_factory=dict)
    pianos: dict[str, Piano] = field(default_factory=dict)
    pieces: dict[str, MusicPiece] = field(default_factory=dict)
    clips: dict[str, ListedClip] = field(default_factory=dict)


def read_list(path: Path) -> ClipList:
    """Read and check a list.

    Args:
        path: The TOML file.

    Raises:
        InputError: There is no such file, or something in it is unknown, missing or impossible.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such list; check --list") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    tables = {f"{kind}.{name}": values for kind, name, values in _tables(content, path)}
    schema = Schema({table: KINDS[table.partition(".")[0]] for table in tables}, path.parent, {}, {})
    built: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for table, block in schema.build(tables, str(path)).items():
        kind, _, name = table.partition(".")
        built[kind][name] = block
    result = ClipList(**built)
    _check_names(result, path)
    return result


def _tables(content: Mapping[str, Any], path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, name and values of every table."""
    rows = []
    for kind, tables in content.items():
        if kind not in KINDS or not isinstance(tables, dict):
            raise InputError(f"{path}: {kind!r} is unknown; expected tables [KIND.NAME] with KIND {', '.join(KINDS)}")
        for name, values in tables.items():
            if not NAME.fullmatch(name) or not isinstance(values, dict):
                raise InputError(f"{path}: [{kind}.{name}]: expected a table whose name has a to z, 0 to 9 and _ only")
            rows.append((kind, name, values))
    return rows


def _check_names(clips: ClipList, path: Path) -> None:
    """Raise InputError if a clip or a model names what the list does not have, or there are no clips."""
    if not clips.clips:
        raise InputError(f"{path} has no clips; add a table [clips.NAME]")
    for name, clip in clips.clips.items():
        named: dict[str, Mapping[str, object]] = {"piece": clips.pieces, "model": clips.models, "piano": clips.pianos}
        for option, table in named.items():
            value = getattr(clip, option)
            if value is not None and value not in table:
                expected = ", ".join(table) or f"a table [{option}s.NAME]"
                raise InputError(f"{path}: clips.{name}.{option} = {value!r} is not in the list; expected {expected}")
    for name, model in clips.models.items():
        for piece in model.training_pieces:
            if piece not in clips.pieces:
                raise InputError(f"{path}: models.{name}.training_pieces: {piece!r} is no piece of the list")


def open_piano(piano: Piano) -> Instrument | SampledInstrument:
    """What plays the truth. Raises InputError if it is not installed, or its file is missing."""
    if piano.renderer not in RENDERERS:
        return load_instrument(Path(piano.file), GAIN)
    return find_instrument(piano.renderer, Path(piano.file), 0, GAIN, effects=False)
