"""midi2wave: a WaveNet that turns MIDI into piano audio."""
