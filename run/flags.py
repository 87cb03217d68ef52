"""run/flags.py: command-line flags from dataclasses.

    @dataclass
    class Rollout:
        "Rollout"                                     # the docstring is the heading in --help
        fresh: int = flag(4, "fresh completions per prompt", low=1)

    @dataclass
    class Config(Rollout, Update):                    # one flag per field, one group per base class
        ...

    cfg, parser = read_flags(Config, "train.py: ...", sys.argv[1:])
    cfg.given                                         # names of the flags that the user has set

Nothing heavy is imported here: `--help` must answer at once.
"""

import argparse
import contextlib
import difflib
import functools
import importlib
import json
import math
import sys
import warnings
from dataclasses import field, fields
from pathlib import Path

from engine.adapter_folder import root_of
from formats.fields import HALF_PAIR, whole_characters
from formats.sample import DataError

NOT_SETTINGS = {"config", "out", "resume"}  # flags that belong to a start

# The libraries that write and read models take no other name of a folder than one in UTF-8, and
# what is trained into another one is lost when it is saved.
FOLDERS_OF_MODELS = ("out", "model", "judge")

LARGEST = 2**31 - 1  # of a number that a flag may have


def flag(default, help: str, low=None, high=None, choices=(), positional=False):
    """A dataclass field with its `--help` text, its range and the values that it may have.

    positional: a tuple of all words that belong to no flag; those behind "--" are among them.

    default None: filled in later, by a preset (`fill`). choices: a tuple, or the address of one
    as "tas.SHAPES", which is looked up only when flags are parsed: a shape that is added to tas.py
    is a value of the flag at once, and --help need not import torch.
    """
    metadata = {
        "help": help,
        "range": (low, high),
        "choices": choices,
        "positional": positional,
    }
    return field(default=default, metadata=metadata)


def read_flags(config: type, title: str, argv: list[str]):
    """Parse `argv` into (an instance of the dataclass `config`, the parser).

    The fields of `config` are `flag`s of type int, float, str, bool or a tuple of words, each or
    None. Dashes in names count as underscores. The file of `--config` (a run's config.json) is
    read first, and argv wins over it. The instance gets the attribute `given`: the names that the
    user has set, here or in the run of that file. An unknown flag, or a value that is out of range
    or not among the choices, ends the program with one sentence; so does the parser's error().
    Words behind "--" are no flags, and no flag's values.
    """
    check_names(config, title, argv)
    parser = make_parser(config, title)
    before, behind = split_at_dashes(argv)
    words = vars(parser.parse_intermixed_args([with_underscores(word) for word in before]))
    if behind:
        name = positional_name(config)
        words[name] = [*words.get(name, ()), *behind]
    given = set(words)
    if words.get("config"):
        values, given_there = from_file(words["config"], words, parser)
        words = values | words
        given |= given_there

    cfg = config(**words)
    cfg.given = given
    for f in fields(cfg):
        check_value(f, getattr(cfg, f.name), parser)
    return cfg, parser


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; argparse's own prints all flags before it."""

    def error(self, message: str):
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def check_names(config: type, title: str, argv: list[str]) -> None:
    """Answer --help and end the program where a flag is unknown, with the nearest one that is
    known, or where a word stands behind "--" that cannot. Looks at names alone, so it can be called
    before anything heavy is imported."""
    parser = make_parser(config, title)
    before, behind = split_at_dashes(argv)
    if {"-h", "--help"} & set(before):
        parser.parse_args(["--help"])
    known = [f"--{f.name}" for f in fields(config)]
    for word in before:
        name = with_underscores(word).partition("=")[0]
        if not word.startswith("--") or name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1)
        question = f"; did you mean {nearest[0]}?" if nearest else ""
        parser.error(f"unrecognized arguments: {word}{question}")

    if behind and not positional_name(config):
        parser.error(f"unrecognized arguments: {' '.join(behind)}")
    for word in behind:
        if with_underscores(word).partition("=")[0] in [*known, "--help"]:
            parser.error(f"{word} stands behind --, where no word is a flag; write it before --")


def split_at_dashes(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words before the first "--", and those behind it, which are no flags.

    >>> split_at_dashes(["--options", "red", "blue", "--", "a.mp4", "-5 + 3?"])
    (['--options', 'red', 'blue'], ['a.mp4', '-5 + 3?'])
    """
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def positional_name(config: type) -> str | None:
    """The field that holds the words that belong to no flag; None where none may be."""
    return next((f.name for f in fields(config) if f.metadata["positional"]), None)


def list_names(config: type) -> list[str]:
    """The flags that take every word up to the next flag or "--"."""
    found = []
    for f in fields(config):
        if isinstance(f.default, tuple) and not f.metadata["positional"]:
            found.append(f.name)
    return found


def make_parser(config: type, title: str) -> Parser:
    """One option per field, in groups: the class that defines a field is its group."""
    # argparse's own usage has the words last, where a list of words would take them
    words = positional_name(config)
    usage = f"%(prog)s [{words.upper()} ...] [--FLAG VALUE ...]" if words else None
    parser = Parser(
        usage=usage,
        description=title,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # what is not given is absent, so that we can tell
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
    )
    for heading, group_fields in groups_of(config).items():
        section = parser.add_argument_group(heading)
        for f in group_fields:
            add_option(section, f, words)
    return parser


def groups_of(config: type) -> dict[str, list]:
    """The fields of a dataclass by heading: the docstring of the class that defines them.

    In the order of the base classes, which dataclasses.fields turns around.
    """
    known = {f.name: f for f in fields(config)}
    groups = {}
    for cls in config.__mro__:
        names = [name for name in vars(cls).get("__annotations__", {}) if name in known]
        if names:
            heading = cls.__doc__.split("\n")[0].rstrip(".")
            groups[heading] = [known.pop(name) for name in names]
    return groups


def add_option(section, f, words: str | None) -> None:
    """One field as an option of a group. words: of `positional_name`."""
    if f.metadata["positional"]:
        section.add_argument(f.name, nargs="*", help=f.metadata["help"], metavar=f.name.upper())
        return
    name_of_type = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
    kind = name_of_type.split(" ")[0].split("[")[0]  # "int | None" and "tuple[str, ...]"
    convert = {"int": int, "float": float, "str": str, "bool": to_bool, "tuple": str}[kind]
    text = f.metadata["help"]

    # These two may take a word that is not meant for them.
    how_many = {}
    if kind == "bool":
        how_many = {"nargs": "?", "const": True}  # --flag is --flag true
        if words:
            mend = f"; write {words.upper()} before --{f.name}, or behind --"
            convert = functools.partial(to_bool, mend=mend)
    elif kind == "tuple":
        how_many = {"nargs": "+"}
        if words:
            text += f"; takes every word up to the next flag or --, so write {words.upper()} first"

    metavar = "STR" if kind == "tuple" else kind.upper()
    if f.default not in (None, "", ()):
        text += f" (default: {f.default})"
    text = text.replace("%", "%%")  # argparse formats its help
    section.add_argument(f"--{f.name}", type=convert, help=text, metavar=metavar, **how_many)


def with_underscores(word: str) -> str:
    """--prompts-per-step=4 -> --prompts_per_step=4; other words stay."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value


def from_file(path: str, words: dict, parser: argparse.ArgumentParser) -> tuple[dict, set[str]]:
    """The flags of a run's config.json, and the names of those that its user had set.

    All values, also those that came from presets, so that another version of the presets changes
    nothing. A flag that is newer than the file has its value of today, with a warning. But where
    the command line names another preset (--method, --stage, --model), only what that run's user
    had set: the rest is the new preset's. A file without "given" was written by hand, as those in
    configs/: all that it names was set by its user.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        is_a_runs = "given" in values
        given = set(values.pop("given", values))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        parser.error(f"--config {path}: not a run's config.json ({type(error).__name__}: {error})")

    options = {action.dest: action for action in parser._actions if action.dest != "help"}
    for name in NOT_SETTINGS:
        values.pop(name, None)
    if unknown := sorted(values.keys() - options):
        parser.error(f"--config {path}: unknown flag '{unknown[0]}'; remove it from the file")

    # the same conversion as on the command line, so that a value of another type is refused
    for name, value in values.items():
        option = options[name]
        try:
            if not isinstance(value, str | int | float):
                raise ValueError
            values[name] = option.type(value if isinstance(value, str) else json.dumps(value))
        except (ValueError, argparse.ArgumentTypeError):
            parser.error(f"--config {path}: {name} {value!r} is no {option.metavar}")

    if is_a_runs and (newer := sorted(options.keys() - values.keys() - NOT_SETTINGS)):
        warnings.warn(
            f"--config {path}: older than the flags {', '.join(newer)}; they have today's values, "
            "which are printed below",
            stacklevel=2,
        )

    presets = ("method", "stage", "model")
    if any(name in words and words[name] != values.get(name) for name in presets):
        values = {name: value for name, value in values.items() if name in given}
    return values, given & values.keys()


def check_flags(cfg, parser: argparse.ArgumentParser) -> None:
    """Check what presets have filled in. Raises ValueError where a flag has no value."""
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        if value is None:
            raise ValueError(f"the flag --{f.name} has no default, and no preset gives it a value")
        check_value(f, value, parser)


def check_value(f, value, parser: argparse.ArgumentParser) -> None:
    """End the program with one sentence where a flag's value is out of range or unknown."""
    if value is None:
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_range(f, value, parser)
    if f.name in FOLDERS_OF_MODELS and HALF_PAIR.search(value):
        shown = whole_characters(value)
        parser.error(f"--{f.name} {shown}: holds bytes that are no UTF-8; rename it")

    choices = f.metadata["choices"]
    if isinstance(choices, str):
        module, _, name = choices.rpartition(".")
        choices = tuple(getattr(importlib.import_module(module), name))
    if choices and value not in choices:
        parser.error(f"--{f.name} {value}: known are {', '.join(map(str, choices))}")


def check_range(f, value: float, parser: argparse.ArgumentParser) -> None:
    """End the program with one sentence for a number out of range. Every number has a range: what
    is larger than LARGEST overflows somewhere below."""
    low, high = f.metadata["range"]
    lowest = -LARGEST if low is None else low
    highest = LARGEST if high is None else high
    if math.isnan(value):
        parser.error(f"--{f.name} {value}: must be a number")
    if lowest <= value <= highest:
        return
    if high is not None:
        bounds = f"between {lowest} and {highest}"
    elif value < lowest:
        bounds = f"at least {lowest}"
    else:
        bounds = f"at most {highest}"
    parser.error(f"--{f.name} {value}: must be {bounds}")


def number_in(kind: type, low: float, high: float = LARGEST):
    """The type of an option of argparse: a number in a range. kind: int or float.

    Without a range "-1" processes are waited for without end, and 0 frames per second are the fault
    of a file.
    """

    def convert(text: str):
        value = kind(text)
        if not low <= value <= high:  # neither is a NaN
            bounds = f"at least {low}" if high == LARGEST else f"between {low} and {high}"
            raise argparse.ArgumentTypeError(f"{text}: must be {bounds}")
        return value

    convert.__name__ = kind.__name__  # argparse names it where the text is no number
    return convert


def number_like(config: type, name: str):
    """The same, with the range that a flag of a dataclass has."""
    (f,) = [f for f in fields(config) if f.name == name]
    low, high = f.metadata["range"]
    kind = float if "float" in str(f.type) else int
    return number_in(kind, -LARGEST if low is None else low, LARGEST if high is None else high)


def fill(cfg, defaults: dict) -> None:
    """Put defaults where flags were left None."""
    for name, value in defaults.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, value)


def check_place(path: Path, flag: str, example: str) -> None:
    """Raises DataError where a flag names no file that could be written: a folder, or a file in a
    folder that is not there.

    example: a name for the file. Raises OSError for a name that no file can have.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; pass a file in it to {flag}, as {path / example}")
    if not path.parent.is_dir():
        raise DataError(
            f"{path}: there is no folder {path.parent}; make it, or pass another file to {flag}"
        )
    with contextlib.suppress(FileNotFoundError):
        path.lstat()


def to_bool(text: str, mend: str = "") -> bool:
    """mend: what to do where the text is neither, for the error."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false{mend}")
    return text.lower() == "true"


def take_any_bytes() -> None:
    """A byte that is no UTF-8, in the name of a file that is printed or in a line of the input,
    ends nothing. stderr does so on its own."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):  # not what a test, or another program, has put there
            stream.reconfigure(errors=errors)


def is_tiny(model: str) -> bool:
    """Does --model name a model of the bundled one's size (decoder width 512 or less)?

    Empty means the bundled one; a folder of adapters, the model that they belong to. A folder whose
    config.json is broken counts as large: loading it will say what is wrong.
    """
    try:
        model = str(root_of(model)) if model else ""
    except DataError:
        return False
    file = Path(model) / "config.json"
    if not model or not file.is_file():
        return not model
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        text_config = config.get("thinker_config", config).get("text_config", {})
        return text_config.get("hidden_size", math.inf) <= 512
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return False
