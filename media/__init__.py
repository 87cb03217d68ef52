"""Media files: decoding them, keeping what was decoded, and what a model reads of them."""
