"""judge.py: verdicts from canned replies and from a tiny random InternVL; what the judge sees."""

import re
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import judge
from formats.sample import Away, DataError, Sample
from judge import Judge, judge_prompt, make_judge, oracle, parse_verdict, watch
from tests.chat_fakes import GOOD, SCORES, Canned, mixed_media
from tests.media_files import write_clip
from tools.chat import Endpoint, LocalModel, Request


# ------------------------------------------------------------------ the words
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (GOOD, SCORES),
        (f"```json\n{GOOD}\n```", SCORES),
        (f"My verdict, as asked: {GOOD} Best wishes.", SCORES),
        ('{"audio": 1} then ' + GOOD, SCORES),
        (GOOD[:-1] + ', "why": {"x": [1]}}', SCORES),
        (GOOD[:-1], None),
        ("", None),
        ("all fine", None),
        (GOOD.replace("0.25", "25"), None),
        (GOOD.replace("0.25", "-1"), None),
        (GOOD.replace("0.25", "true"), None),
        (GOOD.replace("0.25", '"high"'), None),
        (GOOD.replace("0.25", "NaN"), None),
        ("[1, 2]", None),
        ("{" * 5000, None),
    ],
)
def test_verdicts(reply, expected):
    assert parse_verdict(reply) == expected


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from([*list('{}[]",:01.'), '"audio"', "1"]), max_size=60).map("".join),
    )
)
def test_any_reply_is_read_or_missing(text):
    verdict = parse_verdict(text)
    if verdict is not None:
        assert set(verdict) == set(SCORES)
        assert all(0 <= score <= 1 for score in verdict.values())


def test_nested_braces_are_read_in_linear_time():
    start = time.process_time()
    assert parse_verdict('{"a":' * 20_000) is None
    assert parse_verdict("{" * 10**6) is None
    assert parse_verdict('{"a":' * 20_000 + GOOD) == SCORES
    assert time.process_time() - start < 5


def test_prompt_holds_everything_and_survives_braces():
    sample = Sample("a", "Where {is} it?", "localisation", "left: dog", audio_caption="a bark")
    text = judge_prompt(sample, "I {see} a dog", "left: {dog}")
    for expected in (
        "Where {is} it?",
        "left: dog",
        "a bark",
        "I {see} a dog",
        "left: {dog}",
        '"location"',
    ):
        assert expected in text


# ------------------------------------------------------------------ the judge
def test_unusable_verdicts_are_asked_once_more_and_then_missing(samples):
    model = Canned([GOOD, "hm", "no"], [f"```{GOOD}```", "still no"])
    rate = Judge(model)
    verdicts = rate([(samples[0], "a", "b"), (samples[0], "c", "d"), (samples[2], "e", "f")])
    assert verdicts == [SCORES, SCORES, None]
    assert (rate.asked, rate.missing) == (3, 1)
    assert [len(r) for r in model.asked] == [3, 2]  # one batch, then only the unusable ones
    first = model.asked[0][0]
    assert samples[0].question in first.text
    assert samples[0].audio_caption in first.text
    assert [f.shape for f in first.frames] == [(56, 168, 3)] * 8
    assert len(rate.frames) == 2  # one decoding per clip


def test_a_clip_that_cannot_be_decoded_costs_its_own_verdicts(tmp_path, capsys):
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    write_clip(tmp_path / "v.mp4", frames=8)
    broken, usable = (
        Sample(name, "What?", "free-form", "red", videos=[str(tmp_path / name)])
        for name in ("noise.mp4", "v.mp4")
    )
    rate = Judge(Canned([GOOD]))
    verdicts = rate([(broken, "a", "b"), (usable, "a", "b"), (broken, "c", "d")])
    assert verdicts == [None, SCORES, None]
    assert (rate.asked, rate.missing) == (3, 2)
    assert capsys.readouterr().err.count("not judged: ") == 1


def test_the_judge_sees_all_pictures_and_eight_frames_of_each_video(tmp_path):
    """In the order of the question; the large picture has at most 448 x 448 pixels; the sounds stay
    out, also where the question names one."""
    several = mixed_media(tmp_path)
    frames = watch(several)
    greys = [f[-28:, -28:].mean() for f in frames]
    assert greys == pytest.approx([50, *range(0, 160, 20), 250], abs=4)
    assert frames[0].shape == (28, 56, 3)
    # 2000 x 1000 at 448 x 448 pixels, sides in multiples of 28
    assert frames[-1].shape == (616, 308, 3)
    named = Sample("b", "What is <audio>?", "yes/no", "no", audios=several.audios)
    assert watch(named) is None
    assert watch(Sample("c", "?", "yes/no", "no")) is None


def test_a_tiny_internvl_judges_end_to_end(tiny_internvl, samples):
    model = LocalModel(str(tiny_internvl), max_tokens=6, batch=2)
    rate = Judge(model)
    verdicts = rate([(s, "I looked", "B") for s in samples[:3]])
    assert verdicts == [None] * 3  # random weights do not write JSON: missing, never 0
    assert rate.missing == 3

    frames = rate.watch_all([samples[0], samples[2]])
    inputs = model.inputs([Request("What?", frames[0]), Request("What is it then?", frames[1])])
    assert inputs["pixel_values"].shape == (16, 3, 56, 56)
    context = model.processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert (inputs["input_ids"] == context).sum(1).tolist() == [32, 32]  # 8 frames x 4 tokens
    replies = model.ask([Request("What?", frames[0])] * 3)
    assert len(set(replies)) == 1  # greedy; batches of 2 and 1 agree


# ------------------------------------------------------------------ the judge of a run
def settings(**named):
    return SimpleNamespace(
        **({"stage": 3, "judge": "", "judge_endpoint": "", "workers": 0} | named)
    )


def test_the_judge_of_a_run(samples, monkeypatch):
    """None but in stage 3; the oracle on the toy world; elsewhere a model, here or on a server."""
    real = [Sample("r", "?", "yes/no", "no", where="d.jsonl:1")]
    assert make_judge(settings(stage=2), samples, "cpu") is None
    assert make_judge(settings(), samples, "cpu") is oracle
    monkeypatch.setattr(judge, "LocalModel", lambda name, device: (name, device))
    assert make_judge(settings(), real, "cpu").model == (judge.DEFAULT_JUDGE, "cpu")
    assert make_judge(settings(judge="other"), samples, "cpu").model == ("other", "cpu")
    on_server = make_judge(settings(judge_endpoint="http://host:8000/v1"), real, "cpu").model
    assert isinstance(on_server, Endpoint)
    assert on_server.model == judge.DEFAULT_JUDGE
    with pytest.raises(DataError, match=r"d\.jsonl:1: field 'scene' of record 'r' is empty"):
        make_judge(settings(judge="oracle"), real, "cpu")


class Refusing:
    """A model that refuses, or babbles, after so many good verdicts."""

    def __init__(self, good: int, reply: str):
        self.good = good
        self.reply = reply

    def ask(self, requests):
        replies = []
        for _ in requests:
            replies.append(GOOD if self.good > 0 else self.reply)
            self.good -= 1
        return replies


@pytest.mark.parametrize(
    ("reply", "reason"),
    [("", "it refuses what it is sent"), ("Sure!", "its last reply was 'Sure!'")],
)
def test_a_judge_that_gives_no_verdict_any_more_is_away(reply, reason):
    """Eight verdicts, then none: the 16th completion without one ends it, and not a single one."""
    completions = [(Sample("a", "?", "yes/no", "no"), "reasoning", "no")] * 8
    judge = Judge(Refusing(8, reply))
    assert None not in judge(completions)
    assert judge(completions) == [None] * 8
    with pytest.raises(Away, match=re.escape(f"on 16 completions in a row ({reason})")):
        judge(completions)

    # one verdict in between, and it goes on
    judge = Judge(Refusing(0, reply))
    for _ in range(4):
        judge(completions)
        judge.model.good = 8
        judge(completions)


def test_media_that_fail_are_no_fault_of_the_judge(tmp_path):
    sample = Sample("a", "?", "yes/no", "no", videos=[str(tmp_path / "gone.mp4")])
    judge = Judge(Refusing(0, ""))
    for _ in range(5):
        assert judge([(sample, "reasoning", "no")] * 8) == [None] * 8
