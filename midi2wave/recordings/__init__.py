"""A user's recordings: pairs of audio and MIDI in a folder, and whether they can be trained on."""
