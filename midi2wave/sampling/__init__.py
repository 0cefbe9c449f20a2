"""Generate audio from MIDI with a trained model."""
