"""midi2wave: a WaveNet that turns MIDI into piano audio.

    import midi2wave

    model = midi2wave.load("pretrained/grand.safetensors")
    audio = model.generate("song.mid", seed=0)  # float32 [T] in -1..1 at model.sample_rate

See `midi2wave.api` and docs/api.md. PyTorch is imported when one of the other names is first used.
"""

from typing import TYPE_CHECKING, Any

from midi2wave.utils.errors import InputError

if TYPE_CHECKING:
    from midi2wave.api import LoadedModel, finetune, load

__all__ = ["InputError", "LoadedModel", "finetune", "load"]


def __getattr__(name: str) -> Any:
    """Import the API when one of its names is first used."""
    if name not in ("LoadedModel", "finetune", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from midi2wave import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """All public names, also those that are not imported yet: for help() and completion."""
    return sorted({*globals(), *__all__})
