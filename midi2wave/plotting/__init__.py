"""Figures and the listening page."""
