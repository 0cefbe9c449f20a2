"""How disturbed a model's past samples are, as a condition of the model.

In training, noise and the audio of other crops are mixed into the past samples, so that the model tolerates its own
errors when it generates. With `data_config.history_level_input` their level is an input of the model, which can then
rely on its past where that is clean; for generation a level is chosen (`inference_config.history_level`). Cascaded
diffusion models do the same with noisy images: conditioning augmentation (arXiv 2106.15282, section 4).
"""

import numpy as np

from midi2wave.config import MIN_HISTORY_LEVEL

# The input is the level's piecewise linear interpolation weights at these, in dB relative to the maximum.
KNOTS_DB = (MIN_HISTORY_LEVEL, -45.0, -30.0, -15.0, 0.0)
N_LEVEL_FEATURES = len(KNOTS_DB)


def level_features(level_db: float) -> list[float]:
    """A level as input of a model.

    Args:
        level_db: Level of the disturbance, relative to the maximum of training; below -60 dB it counts as -60 dB.

    Returns:
        [N_LEVEL_FEATURES], interpolation weights that sum to 1.
    """
    return [float(np.interp(level_db, KNOTS_DB, unit)) for unit in np.eye(N_LEVEL_FEATURES)]


def level_amplitude(level_db: float) -> float:
    """The factor by which a level multiplies the maximum disturbance."""
    return 10 ** (level_db / 20)


def set_level(features: np.ndarray, level_db: float) -> None:
    """Replace the level in features whose last rows describe it, float32 [F + G, N], in place."""
    features[-N_LEVEL_FEATURES:] = np.array(level_features(level_db), dtype=features.dtype)[:, None]
