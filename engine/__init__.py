"""The engine: attention and log-probs of packed rows, model families, processes, the optimiser."""
