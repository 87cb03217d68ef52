"""run/flags.py: what "--" means; the other tests of flags are in tests/test_config.py."""

import pytest

import ask
import config


@pytest.mark.parametrize("parse", [config.parse, ask.parse])
def test_two_dashes_with_nothing_behind_them_change_nothing(parse):
    cfg = parse(["--seed", "3", "--"])
    assert cfg.seed == 3
    assert cfg.given == {"seed"}


def test_words_behind_two_dashes_are_refused_where_no_words_are_taken(capsys):
    with pytest.raises(SystemExit) as end:
        config.parse(["--seed=3", "--", "a.mp4", "what?"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: unrecognized arguments: a.mp4 what? (--help lists all flags)\n"


def test_a_name_behind_two_dashes_is_checked_for_flags_and_not_for_typos(capsys):
    """A flag there would silently be a question; --smaples is one that may be meant."""
    assert ask.parse(["--", "--smaples"]).words == ["--smaples"]
    for word in ("--samples", "--samples=2", "--max-frames", "--help"):
        with pytest.raises(SystemExit):
            ask.parse(["a.mp4", "--", word])
        assert f"error: {word} stands behind --" in capsys.readouterr().err
