"""The run directory: config, checkpoints, metrics, and a run that was read."""
