"""The models that a player can choose from, each with the settings that the shipped configs play it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midi2wave.checkpoint import LoadedCheckpoint, load_checkpoint
from midi2wave.config import (
    CONFIG_FOLDER,
    DEFAULT_HISTORY_LEVEL,
    FINETUNED_CONFIG,
    InferenceConfig,
    SamplerWeights,
    SamplingMethod,
    load_config,
)
from midi2wave.utils.errors import InputError

# The configs that play shipped weights, by this name; the one of the folder itself comes first.
PLAY_CONFIG = "config_play.json"
# A usual temperature of shipped models, for others than theirs.
DEFAULT_TEMPERATURE = 0.8


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A model that is played.

    Attributes:
        path: Where it was loaded from, as the user named it.
        checkpoint: The model.
        temperature: The one that it is played with by default.
        guidance: As temperature.
        global_labels: As temperature.
        weights: Number format of its weights.
        config: The config of inference.py that has these defaults.
        sampling: As temperature.
        history_level: As temperature; for models with that input.
    """

    path: str
    checkpoint: LoadedCheckpoint
    temperature: float
    guidance: float
    global_labels: tuple[str, ...]
    weights: SamplerWeights
    config: str
    sampling: SamplingMethod = "random"
    history_level: float = DEFAULT_HISTORY_LEVEL

    def describe(self) -> dict[str, Any]:
        """What the page states of the model, as JSON values."""
        model, data = self.checkpoint.model, self.checkpoint.config.data_config
        return {
            "path": self.path,
            "name": Path(self.path).stem,
            "config": self.config,
            "audio_hz": data.audio_hz,
            "hop": model.hop,
            "lookahead_ms": 1000 * model.context_frames[1] / data.midi_hz,
            "labels": list(data.global_values),
            "has_history_level": data.history_level_input,
            "defaults": {
                "temperature": self.temperature,
                "sampling": self.sampling,
                "guidance": self.guidance,
                "history_level": self.history_level,
                "labels": list(self.global_labels),
            },
        }


def load_models(paths: Sequence[str], device: str) -> list[LiveModel]:
    """Load models.

    Args:
        paths: As in `midi2wave.load`.
        device: As in `midi2wave.load`.

    Raises:
        InputError: One cannot be loaded, or plays no MIDI.
    """
    settings: dict[Path, tuple[str, InferenceConfig]] = {}
    for config in _play_configs():
        inference = load_config(config, ("inference_config",)).inference_config
        names = filter(None, (inference.model_filename, inference.fast_model_filename))
        settings |= {Path(name).resolve(): (config, inference) for name in names}
    for path in paths:
        beside = Path(path).resolve().with_name(FINETUNED_CONFIG)
        if beside.is_file():
            inference = load_config(str(beside), ("inference_config",)).inference_config
            settings.setdefault(Path(inference.model_filename).resolve(), (str(beside), inference))
    models = []
    for path in paths:
        config, defaults = settings.get(Path(path).resolve(), (PLAY_CONFIG, None))
        models.append(_load(path, device, config, defaults))
    return models


def _play_configs() -> list[str]:
    """The names of all configs that play shipped weights, the default one last."""
    others = [path.relative_to(CONFIG_FOLDER).as_posix() for path in sorted(CONFIG_FOLDER.glob(f"*/{PLAY_CONFIG}"))]
    return [*others, PLAY_CONFIG]


def _load(path: str, device: str, config: str, settings: InferenceConfig | None) -> LiveModel:
    checkpoint = load_checkpoint(path, device)
    if not checkpoint.config.data_config.conditional:
        raise InputError(f"{path} is an unconditional model and plays no MIDI; give another --model")
    return LiveModel(
        path=path,
        checkpoint=checkpoint,
        temperature=settings.temperature if settings else DEFAULT_TEMPERATURE,
        guidance=settings.guidance if settings else 1.0,
        global_labels=tuple(settings.global_values) if settings else (),
        weights=settings.sampler_weights if settings else "auto",
        config=config,
        sampling=settings.sampling if settings else "random",
        history_level=settings.history_level if settings else DEFAULT_HISTORY_LEVEL,
    )
