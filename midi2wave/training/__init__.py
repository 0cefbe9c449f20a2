"""Training: the step, its state, losses, log and hardware."""
