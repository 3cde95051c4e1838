"""Training: preparation, the loop, one step, and what takes it."""
