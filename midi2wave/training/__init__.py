"""The training step, its state, losses, log and hardware."""
