"""The record of a fine-tuning, from which the same command resumes: settings, and what finished phases have found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.errors import InputError
from midi2wave.utils.output_folder import require_own_dir

RECORD_NAME = "finetune.json"


class PhaseRecord:
    """The record in an output folder.

    Attributes:
        folder: The output folder.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open the folder; changes nothing.

        Args:
            folder: The output folder; it need not exist.
            settings: All that the result depends on, as JSON values.

        Raises:
            InputError: The folder holds files of other origin, or a fine-tuning with other settings.
        """
        require_own_dir(folder, RECORD_NAME)
        self.folder = folder
        self._path = folder / RECORD_NAME
        stored = self._read()
        self._phases: dict[str, Any] = stored.get("phases", {})
        self._settings = json.loads(json.dumps(settings))
        before = stored.get("settings", self._settings)
        changed = [
            f"{name} = {value} instead of {before.get(name)}"
            for name, value in self._settings.items()
            if before.get(name) != value
        ]
        if changed and self._phases:  # Nothing is lost before the first phase has ended.
            raise InputError(
                f"{folder} holds a fine-tuning with other settings: {'; '.join(changed)}; give the same, or choose "
                "another folder with -o"
            )

    def _read(self) -> dict[str, Any]:
        """The stored record; an empty one if there is none."""
        if not self._path.is_file():
            return {}
        try:
            stored = json.loads(self._path.read_bytes())
            valid = isinstance(stored["settings"], dict) and isinstance(stored["phases"], dict)
        except (ValueError, KeyError, TypeError, RecursionError):
            valid = False
        if not valid:
            raise InputError(f"{self._path} is damaged or a file of another program; choose another folder with -o")
        return stored

    def begin(self) -> None:
        """Write the record, which makes the folder one of this command. Raises OSError."""
        text = json.dumps({"settings": self._settings, "phases": self._phases}, indent=2) + "\n"
        write_text(self._path, text)

    def run(self, phase: str, function: Callable[[], Any]) -> Any:
        """Do a phase, unless an earlier call has finished it.

        Args:
            phase: Its name.
            function: Does it, and returns what is to be known of it, as JSON values.

        Returns:
            What `function` returned, now or in an earlier call.
        """
        if phase not in self._phases:
            # As it will be read: lists instead of tuples.
            self._phases[phase] = json.loads(json.dumps(function()))
            self.begin()
        return self._phases[phase]
