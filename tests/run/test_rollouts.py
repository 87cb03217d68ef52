"""run/rollouts.py: what a run keeps of its completions, against what is recomputed from it."""

import gzip
import json
import shutil

import numpy as np
import pytest
import torch

import train
from config import parse
from data import PromptBuilder
from engine.families import DEFAULT_MODEL
from formats.load import load_samples
from media.decode import MediaSettings
from model import Features, load_policy
from replay import ReplayBuffer
from run.logs import cut_log, digest_before
from run.rollouts import NAME, RolloutLog, bytes_before, read_steps
from tas import SHAPES
from tests.runs import rows_of, small


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_folder):
    """The folder of a run of 4 steps with two updates each, replay from the second step on; its
    first step's policy is the bundled one."""
    out = tmp_path_factory.mktemp("rollouts") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared_folder)
        flags = small(out, "--replay_min=8", "--steps=4", "--updates=2", "--eval_every=0")
        train.run_stage(parse(flags))
    return out


@pytest.fixture(scope="module")
def steps(run):
    return list(read_steps(run / NAME))


def test_every_completion_of_every_step_is_there(run, steps):
    """As many as the log counts: fresh ones once, replayed ones of both updates."""
    rows, _ = rows_of(run)
    assert [step.step for step in steps] == [0, 1, 2, 3]
    assert [step.generated for step in steps] == [row["generated"] for row in rows]
    for step, row in zip(steps, rows, strict=True):
        fresh = [c for c in step.completions if not c["replayed"]]
        replayed = [c for c in step.completions if c["replayed"]]
        assert len(fresh) == 8
        assert {c["update"] for c in fresh} == {1}
        assert len(replayed) == row["replayed"]
        assert np.mean([c["reward"] for c in fresh]) == pytest.approx(row["reward"], abs=1e-5)
        assert sum(len(c["tokens"]) for c in fresh) == row["completion_tokens"]
        assert all(c["written"] == step.step for c in fresh)
        assert all(c["written"] < step.step for c in replayed)
        assert {c["id"] for c in step.completions} == step.prompts.keys()
        assert {c["update"] for c in replayed} <= {0, 1}
    assert any(c["replayed"] for c in steps[-1].completions)


def test_tokens_and_numbers_are_those_of_the_completion(run, steps, shared_folder):
    """Of the first step: the recorded log-probs are the starting policy's, the weights the U's, the
    entropies and log-probs now lie in their ranges."""
    policy = load_policy(DEFAULT_MODEL)
    path = next(shared_folder.glob("toy_world/*/stage2_train_6x2.jsonl"))
    samples = {sample.id: sample for sample in load_samples(str(path))}
    builder = PromptBuilder(
        policy.tokenizer, policy.form, MediaSettings(fps=2.0, max_frames=16, max_pixels=84 * 28)
    )
    looked_at = [c for c in steps[0].completions if c["logps_now"] is not None][:4]
    for completion in looked_at:
        sample = samples[completion["id"]]
        text = "".join(completion["tokens"])
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(completion["tokens"])
        prompt = builder(sample)
        with torch.no_grad():
            features = Features(policy).of([prompt])
            logp, _, entropy = policy.completion_logps(
                [prompt], features, [[ids]], with_entropy=True
            )
        np.testing.assert_allclose(completion["logps"], logp[0].numpy(), atol=2e-3)

        tt = torch.arange(len(ids)) / (len(ids) - 1)
        expected = 1 + 0.3 * SHAPES["u"](tt)
        np.testing.assert_allclose(completion["weights"], expected.numpy(), atol=1e-3)
        ratio = np.exp(np.array(completion["logps_now"]) - completion["logps"])
        assert completion["ratio_max"] == pytest.approx(ratio.max(), abs=5e-3)
        assert completion["ratio_mean"] == pytest.approx(ratio.mean(), abs=5e-3)
        # one optimiser step away from the policy that sampled
        np.testing.assert_allclose(completion["entropy"], entropy[0].numpy(), atol=0.3)

    prompt = steps[0].prompts[looked_at[0]["id"]]
    sample = samples[looked_at[0]["id"]]
    assert (prompt["question"], prompt["answer"]) == (sample.question, sample.answer)
    ((kind, path),) = prompt["media"]
    assert kind == "video"
    assert sample.videos[0].endswith(path)


def test_what_a_step_needs_to_be_recomputed_is_there(steps):
    """Advantages of a fresh group from its rewards; those of a replayed one from Rbar(q)."""
    kinds = []
    for step in steps:
        groups = {}
        for c in step.completions:
            groups.setdefault((c["id"], c["replayed"], c["update"]), []).append(c)
        for (_, replayed, _), group in groups.items():
            rewards = np.array([c["reward"] for c in group])
            baseline = group[0]["vcrs"] if replayed else rewards.mean()
            std = rewards.std(ddof=1)
            if std > 1e-6 and baseline is not None:
                expected = (rewards - baseline) / (std + 1e-4)
                np.testing.assert_allclose([c["advantage"] for c in group], expected, atol=1e-3)
                kinds.append(replayed)
    assert True in kinds
    assert False in kinds


def test_the_buffer_of_each_step_is_there(run, steps):
    rows, _ = rows_of(run)
    for step, row in zip(steps, rows, strict=True):
        tiers = [tier for tier, _, _ in step.buffer.values()]
        assert set(tiers) <= {"hard", "medium", "easy"}
        assert (row["tier_hard"] > 0) == ("hard" in tiers)
        assert sum(hint for _, _, hint in step.buffer.values()) == row["hints"]


def test_gzip_reads_the_file_as_one_text(run, steps):
    lines = gzip.decompress((run / NAME).read_bytes()).decode().splitlines()
    assert len(lines) == len(steps) + sum(len(step.completions) for step in steps)


@pytest.mark.parametrize(("every", "expected"), [(0, None), (3, [0, 3])])
def test_steps_between_are_left_out(in_shared_folder, tmp_path, every, expected):
    flags = small(tmp_path / "run", f"--log_rollouts={every}", "--steps=4", "--eval_every=0")
    train.run_stage(parse([*flags, "--max_completion_tokens=8"]))
    file = tmp_path / "run" / NAME
    if expected is None:
        assert not file.exists()
    else:
        assert [step.step for step in read_steps(file)] == expected


def test_a_torn_end_is_left_out(run, tmp_path, steps):
    """As of a run that is writing, or whose machine died."""
    content = (run / NAME).read_bytes()
    for cut in (1, 100, len(content) - 5):
        (tmp_path / NAME).write_bytes(content[: len(content) - cut])
        whole = list(read_steps(tmp_path / NAME))
        assert whole == steps[: len(whole)]
        assert len(whole) < len(steps)
    (tmp_path / NAME).write_bytes(content[:50] + b"x" * 100)
    assert list(read_steps(tmp_path / NAME)) == []


def test_a_file_is_cut_where_the_checkpoint_was_made(run, tmp_path, recwarn):
    """To the byte; where it is another file, to the whole members of the steps before it."""
    file = tmp_path / NAME
    shutil.copy(run / NAME, file)
    size = bytes_before(file, 2)
    digest = digest_before(file, size)
    cut_log(file, size, digest, 2)
    assert file.stat().st_size == size
    assert [step.step for step in read_steps(file)] == [0, 1]
    assert not recwarn.list

    shutil.copy(run / NAME, file)
    with pytest.warns(UserWarning, match="bytes of the steps before it stay"):
        cut_log(file, size + 3, "another digest", 3)
    assert [step.step for step in read_steps(file)] == [0, 1, 2]


def test_a_full_disk_is_said_at_the_next_checkpoint(tmp_path):
    """What goes wrong in the thread is raised where the run waits for it."""
    log = RolloutLog(tmp_path / "gone", 1, is_main=True)
    log.write(0, 8, [[]], ReplayBuffer())
    with pytest.raises(FileNotFoundError):
        log.wait()


def test_hostile_text_stays_one_line(tmp_path):
    """U+2028, quotes and control characters, as JSON writes them."""

    class Tokenizer:
        def decode(self, ids):
            return 'a\u2028b\n"</script>\x00'

    log = RolloutLog(tmp_path, 1, is_main=True, tokenizer=Tokenizer())
    header, completion = smallest()
    log.append([header, completion | {"tokens": [7]}])
    (step,) = read_steps(tmp_path / NAME)
    assert step.completions == [completion | {"tokens": ['a\u2028b\n"</script>\x00']}]


# ------------------------------------------------------------------------------ changed files
def smallest() -> tuple[dict, dict]:
    """The two lines of a step with one prompt and one completion of one token."""
    prompt = {"question": "Which?", "options": [], "media": [["video", "a.mp4"]]}
    header = {"step": 0, "generated": 1, "prompts": {"a": prompt}, "buffer": {}}
    completion = {"step": 0, "update": 0, "id": "a", "replayed": False, "hinted": False}
    completion |= {"written": 0, "tier": "hard", "vcrs": None, "reward": 1.0, "scores": {}}
    completion |= {"advantage": 0.5, "ratio_mean": None, "ratio_max": None, "tokens": ["x"]}
    completion |= {"logps": [-0.5], "logps_now": None, "entropy": None, "weights": None}
    return header, completion | {"hint_term": None}


def member(*lines: dict) -> bytes:
    return gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())


NO_STEPS = [
    b"hello\n",
    b'{"a":1}\n',
    b"[]\n",
    b"",
    b"\xff\x00\n",
    b"[" * 100_000,
    b'{"step": "0"}\n',
    b'{"step": true, "generated": 1, "prompts": {}, "buffer": {}}\n',
    b'{"step": 1' + b"0" * 400 + b', "generated": 1, "prompts": {}, "buffer": {}}\n',
]


@pytest.mark.parametrize("text", NO_STEPS)
def test_a_member_that_is_no_step_is_left_out_and_counted(tmp_path, text):
    """It ends what is kept where a run goes on, as a torn one does."""
    step = member(*smallest())
    file = tmp_path / NAME
    file.write_bytes(step + gzip.compress(text) + step)
    with pytest.warns(UserWarning, match=r"rollouts.*are left out: 1$"):
        assert len(list(read_steps(file))) == 2
    assert bytes_before(file, 9) == len(step)
    with pytest.warns(UserWarning, match=f"{len(step)} bytes of the steps before it stay"):
        cut_log(file, 10**6, "another digest", 9)
    assert file.read_bytes() == step


FAULTS = [
    {"tokens": "x"},
    {"tokens": [1]},
    {"tokens": ["x", "y"]},
    {"logps": ["low"]},
    {"logps": None},
    {"logps_now": [0.5]},
    {"weights": [1.0]},
    {"hint_term": [0.0]},
    {"logps_now": [0.5], "entropy": [0.5], "weights": [1.0, 2.0], "hint_term": [0.0]},
    {"logps_now": [float("nan")], "entropy": [0.5], "weights": [1.0], "hint_term": [0.0]},
    {"id": "b"},
    {"id": []},
    {"advantage": "high"},
    {"reward": None},
    {"scores": []},
    {"step": None},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_with_a_damaged_completion_is_left_out_and_counted(tmp_path, fault):
    header, completion = smallest()
    (tmp_path / NAME).write_bytes(member(header, completion | fault) + member(header, completion))
    with pytest.warns(UserWarning, match=r"are left out: 1$"):
        assert len(list(read_steps(tmp_path / NAME))) == 1


def test_every_field_that_is_read_is_looked_for(tmp_path):
    """But for hint_term, which older versions did not write."""
    header, completion = smallest()
    for name in completion.keys() - {"hint_term", "logps_now", "entropy", "weights"}:
        line = {key: value for key, value in completion.items() if key != name}
        (tmp_path / NAME).write_bytes(member(header, line))
        with pytest.warns(UserWarning, match=r"are left out: 1$"):
            assert list(read_steps(tmp_path / NAME)) == []
    del completion["hint_term"]
    (tmp_path / NAME).write_bytes(member(header, completion))
    assert len(list(read_steps(tmp_path / NAME))) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"prompts": []},
        {"prompts": {"a": {"question": "Which?", "options": []}}},
        {"prompts": {"a": {"question": "Which?", "options": [], "media": [["video"]]}}},
        {"buffer": {"a": ["", 0.5, True]}},
        {"buffer": {"a": 7}},
        {"generated": "many"},
    ],
)
def test_a_step_with_a_damaged_header_is_left_out_and_counted(tmp_path, fault):
    header, completion = smallest()
    (tmp_path / NAME).write_bytes(member(header | fault, completion))
    with pytest.warns(UserWarning, match=r"are left out: 1$"):
        assert list(read_steps(tmp_path / NAME)) == []
