"""Global conditioning: what holds for a recording as a whole.

These are labels such as its year, each as COLUMN=VALUE. A model distinguishes those that its data_config.global_values
lists; each is one row of its input, 1 where the recording has it. After them comes the level of `history_level`, if the
model has that input.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from midi2wave.conditioning.history_level import N_LEVEL_FEATURES, level_features
from midi2wave.config import MIN_HISTORY_LEVEL, DataConfig, label_columns
from midi2wave.utils.errors import InputError

INTEGER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


def integer_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels in a table's row: its columns that hold integers, as COLUMN=VALUE."""
    return tuple(f"{name}={int(v)}" for name, v in row.items() if INTEGER.fullmatch(str(v)))


def labels_of_column(labels: Sequence[str], column: str) -> list[str]:
    """Those of the labels that belong to a column."""
    return [label for label in labels if label_columns([label]) == (column,)]


def default_labels(global_values: Sequence[str]) -> tuple[str, ...]:
    """The first of a model's labels in each column."""
    return tuple(labels_of_column(global_values, column)[0] for column in label_columns(global_values))


def one_hot(labels: Sequence[str], global_values: Sequence[str]) -> list[float]:
    """Encode a recording's labels as a model's input.

    Args:
        labels: The recording's labels.
        global_values: The labels that the model distinguishes.

    Returns:
        [G], 1.0 for each of the model's labels that the recording has. All zeros in a column mean unknown.
    """
    return [float(value in labels) for value in global_values]


def n_global_features(config: DataConfig) -> int:
    """Number of rows of a model's input that hold for a recording as a whole, G."""
    return len(config.global_values) + N_LEVEL_FEATURES * config.history_level_input


def global_features(labels: Sequence[str], config: DataConfig, history_level: float = MIN_HISTORY_LEVEL) -> list[float]:
    """What a model receives of a recording as a whole.

    Args:
        labels: The recording's labels.
        config: The model's data_config.
        history_level: Level of the disturbance of the past samples in dB; for models without this input it is ignored.

    Returns:
        [G]: the labels, then the level.
    """
    return one_hot(labels, config.global_values) + level_features(history_level) * config.history_level_input


def unknown_columns(labels: Sequence[str], global_values: Sequence[str]) -> tuple[str, ...]:
    """The columns in which a model distinguishes labels, but none of the recording's."""
    columns = label_columns([label for label in labels if label in global_values])
    return tuple(column for column in label_columns(global_values) if column not in columns)


def require_known_labels(labels: Sequence[str], global_values: Sequence[str], name: str) -> None:
    """Check that a recording has one of the model's labels in each of its columns.

    Args:
        labels: The recording's labels.
        global_values: The labels that the model distinguishes.
        name: The recording's name in the message.

    Raises:
        InputError: It has none in some column.
    """
    for column in unknown_columns(labels, global_values):
        own = next(iter(labels_of_column(labels, column)), None)
        has = f"has {own}, which is" if own else f"has no whole number in a column {column!r}, so that it is"
        expected = ", ".join(labels_of_column(global_values, column))
        raise InputError(
            f"{name} {has} none of data_config.global_values ({expected}); add its value there, or leave it out"
        )


def validate_labels(labels: Sequence[str], global_values: Sequence[str]) -> None:
    """Check labels that the user has chosen.

    Args:
        labels: The user's labels.
        global_values: The labels that the model distinguishes.

    Raises:
        InputError: The model does not distinguish one of them, or two belong to the same column.
    """
    if labels and not global_values:
        raise InputError(
            f"the model has no input for {', '.join(labels)}: it was trained without data_config.global_values; omit it"
        )
    for label in labels:
        if label not in global_values:
            raise InputError(f"the model does not know {label!r}; expected one of {', '.join(global_values)}")
    if len(label_columns(labels)) < len(labels):
        raise InputError(f"{', '.join(labels)}: expected one value of a column")


def resolve_labels(labels: Sequence[str], overrides: Sequence[str], global_values: Sequence[str]) -> tuple[str, ...]:
    """The labels with which a model is conditioned.

    Args:
        labels: The recording's labels.
        overrides: Labels that replace the recording's own in their columns.
        global_values: The labels that the model distinguishes.

    Returns:
        Those that the model distinguishes, in its order.
    """
    own = [label for label in labels if label_columns([label])[0] not in label_columns(overrides)]
    return tuple(value for value in global_values if value in overrides or value in own)
