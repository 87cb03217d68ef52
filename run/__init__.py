"""What surrounds a training run: flags, checkpoints, logs, memory, the order of stages."""
