"""Read MIDI files as piano performances."""
