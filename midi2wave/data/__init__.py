"""Data sets: MAESTRO metadata, processed folders, crops and test clips."""
