"""Training: the step, the loop, checkpoints, and what is written down on the way."""
