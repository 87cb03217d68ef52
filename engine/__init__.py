"""The engine: packed rows and their log-probs, model families, processes, the optimiser."""
