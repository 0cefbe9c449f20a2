"""Global conditioning: what is known of a recording as a whole, such as its year, as texts COLUMN=VALUE.

A model tells apart the values that its data_config.global_values lists; each is one row of its input, 1 where it holds.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from midi2wave.config import label_columns
from midi2wave.utils.errors import InputError

WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


def integer_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What the columns of a table's row that hold whole numbers say."""
    return tuple(f"{name}={int(v)}" for name, v in row.items() if WHOLE_NUMBER.fullmatch(str(v)))


def default_labels(known: Sequence[str]) -> tuple[str, ...]:
    """The first value of each column."""
    return tuple(
        next(value for value in known if label_columns([value]) == (column,)) for column in label_columns(known)
    )


def one_hot(recording: Sequence[str], known: Sequence[str]) -> list[float]:
    """A recording's values as numbers, one for each that the model knows: [G], 0 for all of a column: unknown."""
    return [float(value in recording) for value in known]


def unknown_columns(recording: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The columns of which the model knows values, but not this recording's."""
    return tuple(
        c for c in label_columns(known) if c not in label_columns([value for value in recording if value in known])
    )


def require_known_labels(recording: Sequence[str], known: Sequence[str], name: str) -> None:
    """Raise InputError unless the model knows a value of a recording for each of its columns."""
    for column in unknown_columns(recording, known):
        own = next((value for value in recording if label_columns([value]) == (column,)), None)
        has = f"has {own}, which is" if own else f"has no whole number in a column {column!r}, so that it is"
        expected = ", ".join(value for value in known if label_columns([value]) == (column,))
        raise InputError(
            f"{name} {has} none of data_config.global_values ({expected}); add its value there, or leave it out"
        )


def validate_labels(given: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError for values that a model can't be told, or that contradict each other."""
    if given and not known:
        raise InputError(
            f"the model can't be told {', '.join(given)}: it was trained without data_config.global_values; omit it"
        )
    for value in given:
        if value not in known:
            raise InputError(f"the model does not know {value!r}; expected one of {', '.join(known)}")
    if len(label_columns(given)) < len(given):
        raise InputError(f"{', '.join(given)}: expected one value of a column")


def resolve_labels(recording: Sequence[str], given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """What a model is told of a recording: the values given instead of its own of these columns, of those it knows."""
    own = [value for value in recording if label_columns([value])[0] not in label_columns(given)]
    return tuple(value for value in known if value in given or value in own)
