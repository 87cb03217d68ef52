"""Commands beside training: annotate a data set, check it, make the tiny model."""
