"""run/flags.py: flags from a dataclass."""

import argparse
import json
import math
from dataclasses import field, fields
from pathlib import Path


def flag(default, help: str, low=None, high=None, known: tuple = ()):
    """A Config field with its --help text, its range, and the values that it may have (empty: any)."""
    return field(default=default, metadata={"help": help, "range": (low, high), "known": known})


def read_flags(config: type, title: str, argv: list[str]):
    """(argv as an instance of a dataclass of `flag`s, the parser, whose error() ends the program with one sentence). One option per field; fields may be
    int, float, str, bool or a tuple of words, each or None. Unknown flags, and values that are unknown or out of range, end the program so."""
    parser = argparse.ArgumentParser(
        description=title,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    for f in fields(config):
        kind = (
            str(f.type).split(" ")[0]
            if isinstance(f.type, str)
            else getattr(f.type, "__name__", str(f.type).split(" ")[0])
        )
        convert = {"int": int, "float": float, "str": str, "bool": to_bool, "tuple": str}[kind]
        several = {"bool": {"nargs": "?", "const": True}, "tuple": {"nargs": "+"}}.get(
            kind, {}
        )  # --flag is --flag true
        parser.add_argument(
            f"--{f.name}",
            type=convert,
            default=f.default,
            help=f.metadata["help"],
            metavar=kind.upper(),
            **several,
        )
    cfg = config(**vars(parser.parse_args(argv)))
    for f in fields(cfg):
        value, (low, high), known = getattr(cfg, f.name), f.metadata["range"], f.metadata["known"]
        if value is not None and (
            (low is not None and value < low) or (high is not None and value > high)
        ):
            parser.error(
                f"--{f.name} {value}: must be "
                + (f"between {low} and {high}" if high is not None else f"at least {low}")
            )
        if known and value not in (None, *known):
            parser.error(f"--{f.name} {value}: known are {', '.join(map(str, known))}")
    return cfg, parser


def fill(cfg, defaults: dict) -> None:
    """Put defaults where flags were left None."""
    for name, value in defaults.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, value)


def to_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


def is_tiny(model: str) -> bool:
    """Does this --model name a model of the bundled one's size (decoder width 512 or less)? Empty means the bundled one."""
    file = Path(model) / "config.json"
    if not model or not file.is_file():
        return not model
    config = json.loads(file.read_text())
    return (
        config.get("thinker_config", config).get("text_config", {}).get("hidden_size", math.inf)
        <= 512
    )
