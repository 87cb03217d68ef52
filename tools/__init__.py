"""Commands: annotate or check a data set, make the tiny model. And chat.py: models to ask."""
