"""The messages of the page to the server of play.py: JSON texts, checked before anything is done with them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from midi2wave.config import (
    DEFAULT_HISTORY_LEVEL,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEMPERATURE,
    MIN_HISTORY_LEVEL,
    SamplingMethod,
)
from midi2wave.midi.keyboard import MAX_PITCH, MAX_VELOCITY, MIN_PITCH
from midi2wave.utils.errors import InputError

MAX_TEXT_BYTES = 4096
MAX_SAMPLE = 2**40
MIN_TEMPO, MAX_TEMPO = 0.25, 4.0
MAX_TRANSPOSITION = 24
MIN_VELOCITY_SCALE, MAX_VELOCITY_SCALE = 0.1, 4.0

StreamNumber = Annotated[int, Field(ge=0, lt=2**32)]
SampleNumber = Annotated[int, Field(ge=0, le=MAX_SAMPLE)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Settings(_Message):
    """How a model plays."""

    temperature: float = Field(gt=0, le=MAX_TEMPERATURE)
    sampling: SamplingMethod = "random"
    guidance: float = Field(ge=0, le=MAX_GUIDANCE)
    history_level: float = Field(default=DEFAULT_HISTORY_LEVEL, ge=MIN_HISTORY_LEVEL, le=0)
    seed: int = Field(ge=0, le=MAX_SEED)
    labels: list[Annotated[str, Field(max_length=100)]] = Field(default=[], max_length=20)


class FileSettings(Settings):
    """How a MIDI file is played."""

    tempo: float = Field(default=1.0, ge=MIN_TEMPO, le=MAX_TEMPO)
    transposition: int = Field(default=0, ge=-MAX_TRANSPOSITION, le=MAX_TRANSPOSITION)
    velocity_scale: float = Field(default=1.0, ge=MIN_VELOCITY_SCALE, le=MAX_VELOCITY_SCALE)


class PlayLive(_Message):
    """Begin to play live; `lead_ms` is as of `LiveStream`, in milliseconds."""

    type: Literal["live"]
    stream: StreamNumber
    model: int = Field(ge=0)
    settings: Settings
    lead_ms: float | None = Field(default=None, ge=0, le=60_000)


class PlayFile(_Message):
    """Play the MIDI file that was sent last, from a sample on."""

    type: Literal["play"]
    stream: StreamNumber
    model: int = Field(ge=0)
    settings: FileSettings
    from_sample: SampleNumber = 0


class Key(_Message):
    """A key goes down, or up with velocity 0. `time` is sent back with the sample at which its note begins."""

    type: Literal["key"]
    pitch: int = Field(ge=MIN_PITCH, le=MAX_PITCH)
    velocity: int = Field(ge=0, le=MAX_VELOCITY)
    time: float = 0.0


class Pedal(_Message):
    """A pedal moves."""

    type: Literal["pedal"]
    pedal: Literal[64, 66, 67]
    value: int = Field(ge=0, le=MAX_VELOCITY)


class ReleaseAll(_Message):
    """All keys and pedals go up."""

    type: Literal["release_all"]


class Credit(_Message):
    """The stream may be generated up to a sample."""

    type: Literal["credit"]
    stream: StreamNumber
    until: SampleNumber


class Stop(_Message):
    """End the generation."""

    type: Literal["stop"]


LiveEvent = Key | Pedal | ReleaseAll
Message = PlayLive | PlayFile | Key | Pedal | ReleaseAll | Credit | Stop
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def parse(text: str) -> Message:
    """The message in a text.

    Raises:
        InputError: It is no such message; the reason is short.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise InputError(f"a message of {len(text)} characters, expected at most {MAX_TEXT_BYTES}")
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        raise InputError(f"malformed message: {location + ': ' if location else ''}{first['msg']}") from error
