"""How every odd MIDI file is read: the table of docs/robustness.md.

python -m tests.helpers.odd_midi ../shared/data/odd-midi     # rows of a Markdown table
"""

import sys
from pathlib import Path

from midi2wave.midi import reader as midi_reader
from midi2wave.midi.reader import MIDI_SUFFIXES
from midi2wave.utils.errors import InputError


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(file, "read" or "refused", what was read and left out, or the reason) for each MIDI file below a folder."""
    table = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in MIDI_SUFFIXES):
        name = path.relative_to(folder).as_posix()
        try:
            performance = midi_reader.read_midi(path)
        except InputError as error:
            table.append((name, "refused", str(error).removeprefix(f"{path}: ")))
            continue
        summary = f"{len(performance.onset)} notes, {performance.offset.max():.1f} s"
        n_pedals = sum(len(events) for events in performance.pedals.values())
        summary += f", {n_pedals} pedal events" if n_pedals else ""
        table.append((name, "read", "; ".join((summary, *performance.dropped))))
    return table


def markdown(table: list[tuple[str, str, str]]) -> str:
    """The table as Markdown."""
    lines = ["| file | | what was read and left out, or why not |", "|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)])


if __name__ == "__main__":
    print(markdown(rows(Path(sys.argv[1]))))
