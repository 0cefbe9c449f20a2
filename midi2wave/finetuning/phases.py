"""The record of a fine-tuning, from which the same command resumes: options and results of its phases.

A phase whose options have changed is made again with all later ones, until the training has begun.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import require_own_dir

RECORD_NAME = "finetune.json"
# Of the record; records of other formats are not continued.
FORMAT = 3


class PhaseRecord:
    """The record in an output folder.

    Attributes:
        folder: The output folder.
        name: Name of the model: that of the folder when the fine-tuning was begun.
        is_fixed: Whether changed options are refused; False at first.
        licence: The licence of the weights that was last stated; "" if none was.
    """

    def __init__(self, folder: Path, discard: Callable[[Sequence[str]], None]) -> None:
        """Open the folder; changes nothing.

        Args:
            folder: The output folder; it need not exist.
            discard: Removes what the phases of these names have written.

        Raises:
            InputError: The folder holds files of other origin, or a damaged record.
        """
        require_own_dir(folder, RECORD_NAME)
        self.folder = folder
        self.is_fixed = False
        self._discard = discard
        self._path = folder / RECORD_NAME
        stored = self._read()
        self.name: str = stored["name"]
        self.licence: str = stored["licence"]
        # Options of the phases that were begun, in their order; results of those that are finished.
        self._options: dict[str, Any] = stored["options"]
        self._results: dict[str, Any] = stored["phases"]
        self._to_discard: list[str] = stored["to_discard"]

    def _read(self) -> dict[str, Any]:
        """The stored record; an empty one if there is none."""
        name = self.folder.resolve().name
        empty: dict[str, Any] = {"name": name, "licence": "", "options": {}, "phases": {}, "to_discard": []}
        if not self._path.is_file():
            return empty
        try:
            stored = json.loads(self._path.read_bytes())
            same_format = stored["format"] == FORMAT
            valid = same_format and all(type(stored[name]) is type(value) for name, value in empty.items())
        except (ValueError, KeyError, TypeError, RecursionError):
            valid = False
        if not valid:
            raise InputError(
                f"{self._path} is damaged, or a file of another program or version; choose another folder with -o"
            )
        return stored

    def write(self) -> None:
        """Write the record, which makes the folder one of this command. Raises OSError."""
        record = {"format": FORMAT, "name": self.name, "licence": self.licence, "options": self._options}
        record |= {"phases": self._results, "to_discard": self._to_discard}
        write_text(self._path, json.dumps(record, indent=2) + "\n")

    def discard_outdated(self) -> None:
        """Remove what phases have written that are to be made again. Raises OSError."""
        if self._to_discard:
            self._discard(self._to_discard)
            self._to_discard = []
            self.write()

    def options(self, phase: str) -> Any:
        """The options that a phase was begun with; None if it was not."""
        return self._options.get(phase)

    def result(self, phase: str) -> Any:
        """The result of a finished phase; None if it is not finished."""
        return self._results.get(phase)

    def run(self, phase: str, function: Callable[[], Any], options: Mapping[str, Any] | None = None) -> Any:
        """Do a phase, unless an earlier call has finished it with the same options.

        Args:
            phase: Its name.
            function: Does it, and returns what is to be known of it, as JSON values.
            options: What its result depends on beside the earlier phases, as JSON values.

        Returns:
            What `function` returned, now or in an earlier call.

        Raises:
            InputError: The options have changed, and the record is fixed.
        """
        now = _as_json(dict(options or {}))
        if self._options.get(phase) not in (None, now):
            self._forget(phase, now)
        if phase not in self._results:
            self._options[phase] = now
            self.write()
            self._results[phase] = _as_json(function())
            self.write()
        return self._results[phase]

    def require_same(self, phase: str, options: Mapping[str, Any]) -> None:
        """Raise InputError if a phase was begun with other options and the record is fixed."""
        before, now = self._options.get(phase), _as_json(dict(options))
        if self.is_fixed and before not in (None, now):
            raise InputError(
                f"{self.folder} holds a fine-tuning with other settings: {_differences(before, now)}; "
                "give the same, or choose another folder with -o"
            )

    def _forget(self, phase: str, now: dict[str, Any]) -> None:
        """Forget a phase and all later ones, or refuse that."""
        self.require_same(phase, now)
        log(f"changed since the last call: {_differences(self._options[phase], now)}; what depends on it is made again")
        names = list(self._options)
        self._to_discard = names[names.index(phase) :]
        for name in self._to_discard:
            del self._options[name]
            self._results.pop(name, None)
        self.write()
        self.discard_outdated()


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The options that differ, in words."""
    words = []
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            is_long = isinstance(now[name], dict)
            words.append(name if is_long else f"{_option(name, now)} instead of {_value(before[name])}")
    # minutes and steps take each other's place.
    added, removed = (sorted(one.keys() - other.keys()) for one, other in ((now, before), (before, now)))
    for new, old in zip(added, removed, strict=False):
        words.append(f"{_option(new, now)} instead of {_option(old, before)}")
    return "; ".join(sorted(words))


def _option(name: str, options: dict[str, Any]) -> str:
    return f"{name} = {_value(options[name])}"


def _value(value: Any) -> str:
    return "the default" if value == "" else str(value)


def _as_json(value: Any) -> Any:
    """A value as it is read from a file: lists instead of tuples."""
    return json.loads(json.dumps(value))
