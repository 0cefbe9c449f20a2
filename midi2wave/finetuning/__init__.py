"""Training on a user's own recordings."""
