"""How a model of a fine-tuning is played: the sampling options of its comparison and of `play.json`.

They depend on what the model was trained with.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from midi2wave.config import DEFAULT_HISTORY_LEVEL, DataConfig, SamplerWeights, SamplingConfig, SamplingMethod

Settings = TypeVar("Settings", bound=SamplingConfig)

SAMPLER_WEIGHTS: SamplerWeights = "auto"


@dataclass(frozen=True)
class PlaySettings:
    """Sampling options.

    Attributes:
        sampling: As in inference_config.
        temperature: As in inference_config.
        guidance: As in inference_config.
        history_level: As in inference_config, in dB; only models with `data_config.history_level_input` have it.
    """

    sampling: SamplingMethod
    temperature: float
    guidance: float
    history_level: float

    def apply(self, settings: Settings) -> Settings:
        """A block of a config with these options."""
        return replace(
            settings,
            sampling=self.sampling,
            temperature=self.temperature,
            guidance=self.guidance,
            history_level=self.history_level,
            sampler_weights=SAMPLER_WEIGHTS,
        )

    def options(self, data: DataConfig) -> dict[str, Any]:
        """The options as entries of inference_config; without the history level where the model ignores it."""
        options: dict[str, Any] = {"sampling": self.sampling, "temperature": self.temperature}
        options |= {"guidance": self.guidance, "sampler_weights": SAMPLER_WEIGHTS}
        return options | ({"history_level": self.history_level} if data.history_level_input else {})

    def describe(self, data: DataConfig) -> str:
        """The options in words."""
        level = f", history level {self.history_level:g} dB" if data.history_level_input else ""
        return f"sampling {self.sampling}, temperature {self.temperature:g}{level}, guidance {self.guidance:g}"


# As in configs/real_small/config_play.json. Without guidance the mean of the predictions is too soft where the model is
# unsure of them, as models of few recordings are (docs/own_piano.md).
WITH_LEVEL = PlaySettings("mean", temperature=1.0, guidance=1.5, history_level=-6.0)
# As in configs/real/config_play.json.
WITHOUT_LEVEL = PlaySettings("random", temperature=0.8, guidance=1.0, history_level=DEFAULT_HISTORY_LEVEL)


def play_settings(data: DataConfig) -> PlaySettings:
    """The options for models of a data config; without guidance for those that cannot be guided."""
    settings = WITH_LEVEL if data.history_level_input else WITHOUT_LEVEL
    return settings if data.conditioning_dropout else replace(settings, guidance=1.0)
