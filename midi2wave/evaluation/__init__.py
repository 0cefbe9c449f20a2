"""Measures of generated audio and of the model's use of its conditioning."""
