"""run/stream.py: whose prompts are whose, in which order they come, and what becomes of bad
ones."""

import json
from dataclasses import replace

import pytest

from config import parse
from data import Prompt, PromptBuilder, TooLong
from formats.sample import DataError, Sample
from media.errors import MediaError
from run.stream import PromptStream, load_data, owner


def never(prompt_id: str) -> bool:
    """No prompt shows its hint."""
    return False


class FakeBuilder:
    """Prompts that are their sample alone; the records of `bad` are errors."""

    def __init__(self, bad: dict[str, DataError] | None = None):
        self.bad = bad or {}
        self.prefetched: list[str] = []

    def build(self, samples, hinted):
        prompts = []
        for sample, with_hint in zip(samples, hinted, strict=True):
            prompts.append(self.bad.get(sample.id) or Prompt(sample, with_hint, None, None))
        return prompts

    def prefetch(self, samples):
        self.prefetched = [sample.id for sample in samples]


def records(n: int, questions_per_clip: int = 1) -> list[Sample]:
    """q0, q1, .. with a hint at every second one."""
    out = []
    for i in range(n):
        clip = f"clip{i // questions_per_clip}.mp4"
        hint = "count" if i % 2 else ""
        out.append(Sample(f"q{i}", "?", "numeric", "1", videos=[clip], hint=hint))
    return out


def stream_of(samples, bad=None, seed=0, by_clip=False) -> PromptStream:
    return PromptStream(samples, FakeBuilder(bad), seed, by_clip)


def taken(stream: PromptStream, n: int) -> list[str]:
    return [prompt.sample.id for prompt in stream.take(n, never)]


# ------------------------------------------------------------------ owners
def test_prompts_are_split_over_ranks_for_good():
    ids = [f"q{i}" for i in range(4000)]
    owners = [owner(i, 4) for i in ids]
    assert owners == [owner(i, 4) for i in ids]
    for rank in range(4):
        assert 900 < owners.count(rank) < 1100
    assert {owner(i, 1) for i in ids} == {0}
    # sha256("abc") = ba7816bf8f01cfea...: these are not to change between versions of the program
    assert owner("abc", 1000) == 0xBA7816BF8F01CFEA % 1000


# ------------------------------------------------------------------ the order
@pytest.mark.parametrize("by_clip", [False, True])
def test_the_stream_visits_every_sample_once_per_pass(by_clip):
    samples = records(16, questions_per_clip=2)
    ids = [s.id for s in samples]
    stream = stream_of(samples, by_clip=by_clip)
    visited = []
    for _ in range(12):  # in fours: three passes
        visited += taken(stream, 4)
    passes = [visited[:16], visited[16:32], visited[32:]]
    for one_pass in passes:
        assert sorted(one_pass) == sorted(ids)
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != ids


def test_a_take_may_cross_passes_and_be_longer_than_one():
    stream = stream_of(records(3))
    visited = taken(stream, 7) + taken(stream, 2)
    for start in (0, 3, 6):
        assert sorted(visited[start : start + 3]) == ["q0", "q1", "q2"]


def test_questions_about_one_clip_stay_together():
    samples = records(24, questions_per_clip=3)
    clips = {s.id: s.videos[0] for s in samples}
    visited = taken(stream_of(samples, by_clip=True), 24)
    for start in range(0, 24, 3):
        assert len({clips[i] for i in visited[start : start + 3]}) == 1
    apart = taken(stream_of(samples), 24)
    assert any(clips[a] != clips[b] for a, b in zip(apart[::3], apart[1::3], strict=True))


def test_the_seed_makes_the_order():
    orders = [taken(stream_of(records(20), seed=seed), 40) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_media_of_the_next_step_are_decoded_meanwhile():
    stream = stream_of(records(10))
    stream.take(3, never)
    ahead = list(stream.builder.prefetched)
    assert len(ahead) == 3
    assert taken(stream, 3) == ahead


def test_a_hint_is_shown_where_it_is_wanted_and_there_is_one():
    wanted = {"q0", "q1", "q3"}
    prompts = stream_of(records(6)).take(6, hinted=wanted.__contains__)
    shown = {prompt.sample.id for prompt in prompts if prompt.hinted}
    assert shown == {"q1", "q3"}  # q0 has none


# ------------------------------------------------------------------ bad records
def test_dropped_records_are_replaced_and_never_come_again():
    errors = {"q2": MediaError("x.mp4", "is missing"), "q5": TooLong("q5: too long")}
    samples = records(8)
    stream = stream_of(samples, errors)
    visited = []
    for _ in range(8):
        batch = taken(stream, 3)
        assert len(batch) == 3  # of the next ones, so that all processes keep step
        visited += batch
    assert stream.dropped == errors
    usable = sorted(s.id for s in samples if s.id not in errors)
    for start in range(0, 24, 6):
        assert sorted(visited[start : start + 6]) == usable
    assert not set(errors) & {*stream.coming, *stream.builder.prefetched}


def test_a_record_that_goes_bad_later_leaves_the_line():
    stream = stream_of(records(4))
    stream.take(1, never)
    waiting = list(stream.coming)
    stream.builder.bad[waiting[-1]] = MediaError("x.mp4", "is missing")
    assert stream.prompt(waiting[-1], False) is None
    assert waiting[-1] not in stream.coming
    assert stream.coming == waiting[:-1]
    assert waiting[-1] not in taken(stream, 20)


def test_no_usable_record_is_one_sentence():
    errors = {f"q{i}": MediaError(f"{i}.mp4", "is missing") for i in range(3)}
    message = r"none of the 3 records of this process can be used; the last one: .\.mp4: is missing"
    with pytest.raises(DataError, match=message):
        stream_of(records(3), errors).take(1, never)


def test_the_prompt_of_one_record_with_and_without_its_hint():
    stream = stream_of(records(4))
    for hinted in (False, True):
        prompt = stream.prompt("q1", hinted)
        assert (prompt.sample.id, prompt.hinted) == ("q1", hinted)
    assert not stream.dropped


def test_media_that_are_gone_drop_a_record(builder, samples):
    """With the real builder: the sentence names the record and the file."""
    gone = replace(samples[0], videos=["gone.mp4"])
    stream = PromptStream([gone, samples[1]], builder, 0)
    assert stream.prompt(gone.id, False) is None
    assert isinstance(stream.dropped[gone.id], MediaError)
    assert stream.dropped[gone.id].path == "gone.mp4"
    assert [p.sample.id for p in stream.take(2, never)] == [samples[1].id] * 2


def test_long_prompts_drop_a_record(policy, builder, samples):
    lengths = [len(prompt.ids) for prompt in builder.build_or_raise(samples[:2])]
    limit = min(lengths) - 1
    strict = PromptBuilder(policy.tokenizer, policy.form, builder.settings, limit)
    stream = PromptStream(samples[:2], strict, 0)
    with pytest.raises(DataError, match=f"more than --max_prompt_tokens {limit}"):
        stream.take(1, never)
    assert {type(why) for why in stream.dropped.values()} == {TooLong}


# ------------------------------------------------------------------ saving
def test_a_saved_stream_goes_on_identically():
    errors = {"q2": TooLong("q2: longer"), "q5": TooLong("q5: too long")}
    stream = stream_of(records(8), errors)
    for _ in range(2):
        stream.take(3, never)
    state = json.loads(json.dumps(stream.state_dict()))  # plain values: the state is not shared

    twin = stream_of(records(8), errors, seed=99)
    twin.load_state_dict(state)
    assert [taken(twin, 3) for _ in range(9)] == [taken(stream, 3) for _ in range(9)]
    for prompt_id, why in errors.items():
        assert type(twin.dropped[prompt_id]) is type(why)
        assert str(twin.dropped[prompt_id]) == str(why)


def test_media_that_failed_are_tried_again_when_a_run_goes_on():
    """q2's file is still missing, q5's is back: the order of the others is that of a stream that
    never stopped, and q5 is among them from the next pass on."""
    broken = {i: MediaError(f"{i}.mp4", "is missing") for i in ("q2", "q5")}
    stream = stream_of(records(8), broken)
    for _ in range(2):
        stream.take(3, never)
    state = json.loads(json.dumps(stream.state_dict()))

    still_broken = stream_of(records(8), broken, seed=99)
    still_broken.load_state_dict(state)
    assert still_broken.tried_again == {"q2", "q5"}
    assert still_broken.dropped == {}
    expected = [taken(stream, 3) for _ in range(9)]
    assert [taken(still_broken, 3) for _ in range(9)] == expected
    assert still_broken.dropped.keys() == {"q2", "q5"}

    mended = stream_of(records(8), {"q2": broken["q2"]}, seed=99)
    mended.load_state_dict(state)
    later = [i for _ in range(9) for i in taken(mended, 3)]
    assert "q5" in later
    assert mended.dropped.keys() == {"q2"}
    flat = [i for batch in expected for i in batch]
    assert [i for i in later if i != "q5"] == flat[: len(later) - later.count("q5")]


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (2, 1), (1, 3)])
def test_redistribution_loses_and_doubles_nothing(before, after):
    """Every process is somewhere in its second pass. Afterwards: what was left of it, then whole
    passes; what was dropped stays dropped, at the process that now owns it."""
    samples = records(40)
    bad = {i: TooLong(f"{i}: too long") for i in ("q7", "q20", "q33")}
    states, waiting = [], []
    for rank in range(before):
        stream = stream_of([s for s in samples if owner(s.id, before) == rank], bad, seed=rank)
        for _ in range(len(stream.samples) // 3 + 1):
            stream.take(3, never)
        states.append(stream.state_dict())
        waiting += stream.coming
    assert len(waiting) == len(set(waiting)) > 0

    everything = []
    for rank in range(after):
        mine = [s for s in samples if owner(s.id, after) == rank]
        stream = stream_of(mine, seed=100 + rank)
        fresh = stream_of(mine, seed=100 + rank)
        stream.redistribute(states, lambda i, rank=rank: owner(i, after) == rank)
        assert stream.rng.random() == fresh.rng.random()  # a random stream of its own

        due = [i for i in waiting if owner(i, after) == rank]
        assert sorted(stream.coming) == sorted(due)
        everything += stream.coming
        owned = {i: str(why) for i, why in bad.items() if owner(i, after) == rank}
        assert {i: str(why) for i, why in stream.dropped.items()} == owned

        assert sorted(taken(stream, len(due))) == sorted(due)
        usable = [s.id for s in mine if s.id not in bad]
        assert sorted(taken(stream, len(usable))) == sorted(usable)
    assert sorted(everything) == sorted(waiting)


# ------------------------------------------------------------------ loading
@pytest.fixture
def toy_file(in_shared_folder) -> str:
    """12 records of the toy world."""
    load_data(parse(["--data=toy:6,3"]), 0, 1)  # renders them
    return str(next(in_shared_folder.glob("toy_world/*/stage2_train_6x2.jsonl")))


def test_the_toy_world_brings_training_and_held_out_records(in_shared_folder):
    train, heldout = load_data(parse(["--data=toy:6,3"]), 0, 1)
    assert (len(train), len(heldout)) == (12, 6)
    assert not {s.videos[0] for s in train} & {s.videos[0] for s in heldout}


def test_own_records_have_held_out_ones_only_when_asked_for(toy_file):
    train, heldout = load_data(parse([f"--data={toy_file}"]), 0, 1)
    assert (len(train), len(heldout)) == (12, 0)
    train, heldout = load_data(parse([f"--data={toy_file}", f"--eval_data={toy_file}"]), 0, 1)
    assert heldout == train


def test_held_out_records_are_split_over_processes_and_training_records_are_not(toy_file):
    cfg = parse([f"--data={toy_file}", f"--eval_data={toy_file}"])
    train, heldout = load_data(cfg, 0, 1)
    parts = [load_data(cfg, rank, 2) for rank in (0, 1)]
    assert parts[0][0] == parts[1][0] == train
    assert [len(part) for _, part in parts] == [6, 6]
    ids = [s.id for _, part in parts for s in part]
    assert sorted(ids) == sorted(s.id for s in heldout)


def test_stage_0_needs_traces(tmp_path):
    record = {"id": "a", "question": "q", "problem_type": "numeric", "answer": "1"}
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps(record))
    message = r"d\.jsonl:1: field 'trace' of record 'a' is empty; stage 0 imitates traces"
    with pytest.raises(DataError, match=message):
        load_data(parse(["--stage=0", f"--data={file}"]), 0, 1)


def test_stage_0_leaves_out_records_whose_trace_cannot_be_imitated(tmp_path):
    """And names them; the other stages use them."""
    lines = []
    for i, trace in enumerate(["<think>so</think><answer>1</answer>", "1", "<think>1"]):
        record = {"id": f"q{i}", "question": "?", "problem_type": "numeric", "answer": "1"}
        lines.append(json.dumps(record | {"trace": trace}))
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join(lines))
    left_out = []
    samples, _ = load_data(parse(["--stage=0", f"--data={file}"]), 0, 1, left_out)
    assert [sample.id for sample in samples] == ["q0"]
    assert [error.id for error in left_out] == ["q1", "q2"]
    with pytest.warns(match=r"dropped 2 record\(s\) whose trace cannot be imitated, the first: "):
        load_data(parse(["--stage=0", f"--data={file}"]), 0, 1)
    assert len(load_data(parse(["--stage=2", f"--data={file}"]), 0, 1)[0]) == 3

    file.write_text("\n".join(lines[1:]))
    with pytest.raises(
        DataError, match=r"no record has a trace; the first: .*'q1': it holds <thin"
    ):
        load_data(parse(["--stage=0", f"--data={file}"]), 0, 1)
