"""ask.py: words, flags and output; answers against transformers' forward and a rollout's."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from ask import Config, answer_all, make_sample, medium_kind, parse, split_words
from data import PromptBuilder, split_behind_media
from formats.sample import DataError, Sample
from media.decode import MediaSettings
from model import Features
from rollout import Sampling, answer_more, generate
from run.conversation import Conversation
from run.flags import list_names, make_parser
from tests.families import QWEN3_OMNI
from tests.reference import hf_logps
from tests.runs import REPO

CLIP = str(REPO / "assets" / "clip.mp4")
COLOUR = "What colour is the shape that moves in step with the low tone?"
COUNT = "How many times does the blue disc flash while the low tone sounds?"


def greedy(tokens):
    return Sampling(tokens, temperature=0)


def replies(capsys, *argv):
    """What ask.py prints with --json, parsed."""
    answer_all(parse([*argv, "--json"]))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# ------------------------------------------------------------------ questions behind one prefill
@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen2_5_vl", "qwen3_vl", QWEN3_OMNI])
def test_a_question_behind_a_kept_prefill_has_the_log_probs_of_its_whole_prompt(
    policy, families, samples, family
):
    """Two questions about one clip, each from the prefill of the part with the clip alone, against
    the trainer's pass over the whole row; of the Omnis also against transformers' forward."""
    policy = families.get(family, policy)
    settings = MediaSettings(fps=2.0, max_frames=8, max_pixels=84 * 28)
    builder = PromptBuilder(policy.tokenizer, policy.form, settings)
    prompts = builder.build_or_raise(samples[:2])
    with torch.no_grad():
        (features, _) = Features(policy).of(prompts)
        prefix = policy.prefill([split_behind_media(prompts[0], policy.form)[0]], [features])

    for prompt in prompts:
        beginning, ids = split_behind_media(prompt, policy.form)
        assert [*beginning.ids.tolist(), *ids] == prompt.ids.tolist()
        assert not policy.form.placeholders & set(ids)
        assert len(ids) < len(prompt.ids) - sum(t * h * w // 4 for t, h, w in prompt.grids)
        completions = answer_more(policy, prefix, ids, 2, greedy(12))
        assert completions[0].tokens == completions[1].tokens
        logps = torch.tensor(completions[0].logps)
        with torch.no_grad():
            whole, _ = policy.completion_logps([prompt], [features], [[completions[0].tokens]])
            torch.testing.assert_close(logps, whole[0], atol=1e-4, rtol=1e-4)
            if policy.form.audio is not None:
                theirs = hf_logps(policy, prompt, completions[0].tokens)
                torch.testing.assert_close(logps, theirs, atol=2e-4, rtol=1e-4)


def test_a_prompt_without_media_is_cut_behind_its_first_token(policy, builder):
    sample = Sample("a", "What is two and two?", "numeric", "4")
    prompt = builder(sample)
    beginning, ids = split_behind_media(prompt, policy.form)
    assert len(beginning.ids) == 1
    assert [*beginning.ids.tolist(), *ids] == prompt.ids.tolist()


def test_a_conversation_reads_its_media_once_and_answers_like_a_rollout(
    policy, builder, tmp_path, capsys
):
    """The second question computes its own tokens alone; another clip is read anew."""
    other = tmp_path / "other.mp4"
    other.write_bytes((REPO / "assets" / "clip.mp4").read_bytes())
    picture = tmp_path / "a.png"
    Image.new("RGB", (84, 28), "red").save(picture)

    conversation = Conversation(parse([]))
    asked = []
    for videos, images, question in (
        ([CLIP], [], COLOUR),
        ([CLIP], [], COUNT),
        ([str(other)], [], COUNT),
        ([CLIP], [str(picture)], COUNT),
    ):
        sample = Sample(question, question, "free-form", "", videos=videos, images=images)
        reply = conversation.ask(sample)
        asked.append((reply.prompt_tokens, reply.new_tokens))

        prompt = builder(sample)
        with torch.no_grad():
            features = Features(policy).of([prompt])
        ((expected,),) = generate(policy, [prompt], features, 1, greedy(112))
        assert reply.answers[0].tokens == len(expected.tokens)
        assert f"<answer>{reply.answers[0].answer}</answer>" in expected.text
        assert reply.answers[0].reasoning in expected.text

    (first, all_of_first), (second, own), same_content, with_picture = asked
    assert all_of_first == first
    assert own < second / 3
    assert same_content[1] == own  # another name, the same pixels and sound
    assert with_picture[1] == with_picture[0]


# ------------------------------------------------------------------ words and flags
def test_words_are_files_by_their_ending_and_else_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b c.PNG", "d.flac", "e.mov"):
        (tmp_path / name).touch()
    words = ["a.mp4", "What is in a.mp4", "b c.PNG", "d.flac", "e.mov", "a.mp4#t=1.5", "x" * 5000]
    media, questions = split_words(words)
    assert media == {"video": ["a.mp4", "e.mov"], "image": ["b c.PNG", "a.mp4#t=1.5"]} | {
        "audio": ["d.flac"]
    }
    assert questions == ["What is in a.mp4", "x" * 5000]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("no.mp4", "no.mp4: there is no such file"),
        ("no.mp4#t=3", "no.mp4#t=3: there is no such file"),
        ("notes.txt", "notes.txt: its ending tells neither a video nor a picture nor a sound"),
        ("folder", "folder: its ending tells neither"),
        ("folder.mp4", "folder.mp4: there is no such file"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, monkeypatch, word, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match=sentence):
        split_words([word])


def test_a_moment_of_a_video_is_a_picture():
    assert medium_kind("a.mkv#t=3") == "image"
    assert medium_kind("a.png#t=3") is None


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["a.mp4", "--options", "red"], "--options: two to 26 choices; got 1"),
        (["--problem_type", "multi-label"], "--problem_type multi-label: pass the choices by"),
        (["--samples", "0"], "--samples 0: must be at least 1"),
        (["--promt", "think"], "did you mean --prompt?"),
        (["--problem_type", "essay"], "--problem_type essay"),
        (
            ["--json", CLIP, COLOUR],
            f"'{CLIP}' is neither true nor false; write WORDS before --json",
        ),
        (["--options", "--", CLIP], "argument --options: expected at least one argument"),
        (["--", CLIP, "--samples", "2"], "--samples stands behind --, where no word is a flag"),
        (["--", CLIP, "--use-audio=false"], "--use-audio=false stands behind --"),
    ],
)
def test_bad_flags_end_in_a_sentence(capsys, argv, sentence):
    with pytest.raises(SystemExit):
        parse(argv)
    assert sentence in capsys.readouterr().err


def test_several_samples_are_drawn_at_temperature_one_and_one_is_greedy():
    assert parse([]).temperature == 0
    assert parse(["--samples", "3"]).temperature == 1
    assert parse(["--samples", "3", "--temperature", "0.5"]).temperature == 0.5
    assert parse(["a.mp4", "--samples", "3", "what?"]).words == ["a.mp4", "what?"]


def test_the_list_of_a_flag_ends_at_two_dashes():
    cfg = parse(["--options", "red", "blue", "--", "a.mp4", "-5 + 3?", "--what is that?"])
    assert cfg.options == ["red", "blue"]
    assert cfg.words == ["a.mp4", "-5 + 3?", "--what is that?"]
    assert cfg.problem_type == "multiple choice"
    assert {"options", "words"} <= cfg.given

    # words before it count as well; a second -- is a word as others
    assert parse(["a.mp4", "--seed", "1", "--", "b.mp4", "--"]).words == ["a.mp4", "b.mp4", "--"]
    assert parse(["a.mp4", "--"]).words == ["a.mp4"]
    assert parse(["--"]).words == ()


@pytest.mark.parametrize(
    ("before", "taken", "sentence"),
    [
        ([], ["red", "blue", CLIP, COLOUR], f"took '{CLIP}', which is a media file"),
        ([], ["red", "blue", f"{CLIP}#t=1", COLOUR], f"took '{CLIP}#t=1', which is a media file"),
        ([CLIP], ["red", "blue", COLOUR], f"took '{COLOUR}', which looks like a question"),
        ([CLIP], ["红", "蓝", "什么颜色？"], "took '什么颜色？', which looks like a question"),
        ([CLIP, COUNT], ["red", "blue", COLOUR], f"took '{COLOUR}', which looks like a question"),
        ([COLOUR], ["red", "blue", CLIP], f"took '{CLIP}', which is a media file"),
        ([], ["red", "blue"], "no file and no question is left beside the list of"),
        ([], ["red", "blue", "Name the colour."], "no file and no question is left beside"),
    ],
)
def test_a_list_that_took_files_or_questions_is_refused(capsys, before, taken, sentence):
    with pytest.raises(SystemExit) as end:
        parse([*before, "--options", *taken])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert "; write files and questions before --options, or end its list by --" in line

    # the mend: where the list's end is said, nothing is suspected
    assert parse([*before, "--options", *taken, "--"]).options == taken


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([CLIP, COLOUR], ["red", "blue"]),
        ([CLIP], ["red", "blue"]),  # questions come from the terminal
        ([COLOUR], ["red", "blue"]),
        ([CLIP, "Which file?"], [CLIP, "none.mp4"]),  # named twice, on purpose
        ([CLIP, "What does she ask?"], ["Who?", "Where?"]),
    ],
)
def test_a_list_of_its_own_words_is_taken(words, options):
    cfg = parse([*words, "--options", *options])
    assert (cfg.words, cfg.options) == (words, options)


def test_every_flag_that_takes_several_words_says_so_in_help(capsys):
    """Of the parser itself: a new one is checked for swallowed words, and explained, as well."""
    actions = [a for a in make_parser(Config, "")._actions if a.nargs in ("+", "*")]
    assert [a.dest for a in actions if a.option_strings] == list_names(Config)
    for action in actions:
        says = "takes every word up to the next flag or --, so write WORDS first"
        assert (says in action.help) == bool(action.option_strings)

    # words stand first in the usage, too
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert "[WORDS ...] [--FLAG VALUE ...]" in capsys.readouterr().out.splitlines()[0]


def test_media_are_read_by_kind_and_within_a_kind_as_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["b.wav", "b.png", "b.mp4", "a.wav", "b.mp4#t=1", "a.mp4"]
    for word in words:
        (tmp_path / word.partition("#")[0]).touch()
    media, (question,) = split_words([*words, "What?"])
    order = ["b.mp4", "a.mp4", "b.png", "b.mp4#t=1", "b.wav", "a.wav"]
    assert [path for _, path in make_sample(parse([]), media, question).media] == order

    # and so says the help
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "first the videos, then the pictures, then the sounds, each kind in the order" in text


# ------------------------------------------------------------------ output
def test_json_has_everything_and_agreement_counts_readings(capsys):
    first, second = replies(capsys, CLIP, COLOUR, COUNT, "--samples", "4", "--seed", "1")
    assert first["question"] == COLOUR
    assert len(first["answers"]) == 4
    readings = [answer["read"] for answer in first["answers"] if answer["read"] is not None]
    assert first["agreement"] == {read: readings.count(read) for read in readings}
    assert list(first["agreement"].values()) == sorted(first["agreement"].values(), reverse=True)
    assert first["shown"] == second["shown"]
    (line,) = first["shown"]
    assert line == f"{CLIP}: 8 frames of 84 x 28 pixels, from 0.0 to 3.5 s, 4.1 s of sound"
    assert first["new_tokens"] == first["prompt_tokens"]
    assert second["new_tokens"] < second["prompt_tokens"] / 3


def test_what_is_left_out_is_said(capsys, tmp_path):
    Image.new("RGB", (84, 28), "red").save(tmp_path / "a.png")
    soundfile.write(tmp_path / "b.wav", np.zeros(16_000, np.float32), 16_000)
    files = [CLIP, str(tmp_path / "a.png"), str(tmp_path / "b.wav")]
    flags = ["--use_audio", "false", "--max_frames", "4", "--max_completion_tokens", "2"]
    ((clip, picture, sound),) = [r["shown"] for r in replies(capsys, *files, COLOUR, *flags)]
    assert clip.endswith(
        "4 frames of 84 x 28 pixels, from 0.0 to 3.0 s, 1 a second because of --max_frames 4, "
        "no sound (the file has none, or --use_audio is false)"
    )
    assert picture.endswith("a.png: a picture of 84 x 28 pixels")
    assert sound.endswith("b.wav: 1.0 s of sound")


def test_options_hint_and_style_are_in_the_prompt(monkeypatch, capsys):
    """As a prompt of the training has them: options with letters, the hint above the wording."""
    seen = []
    ask = Conversation.ask

    def note(self, sample):
        prompt = self.builder(sample, hinted=bool(sample.hint))
        seen.append(self.policy.tokenizer.decode(prompt.ids[-80:]))
        return ask(self, sample)

    monkeypatch.setattr(Conversation, "ask", note)
    flags = ["--options", "red", "blue", "--hint", "Listen first.", "--max_completion_tokens", "2"]
    replies(capsys, CLIP, COLOUR, *flags)
    replies(capsys, CLIP, COLOUR, *flags, "--prompt", "direct")
    think, direct = seen
    for text in seen:
        assert COLOUR in text.replace("\n", " ")
        assert "A. red" in text
        assert "B. blue" in text
        assert "Hint: Listen first." in text
    assert "<think>" in think
    assert "<think>" not in direct
    assert "letter only" in direct


def test_bytes_that_are_no_utf8_are_replaced_in_question_options_hint_and_input(tmp_path):
    """As other programs pass them: half a pair of UTF-16, and a letter of Latin-1. Under an
    encoding that is strict, as that of most terminals."""
    clip = os.fsencode(tmp_path) + b"/b\xff.mp4"
    shutil.copy(CLIP, clip)
    words = [clip, b"bad \xed\xa0\xbd q", b"--options", b"r\xe9d", b"blue", b"--hint", b"l\xff"]
    command = [sys.executable, "ask.py", *words, b"--max_completion_tokens", b"4"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "OMP_NUM_THREADS": "1"}
    options = {"cwd": REPO, "env": environment, "capture_output": True}
    done = subprocess.run([*command, b"--json"], **options)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert json.loads(done.stdout)["question"] == "bad \ufffd\ufffd\ufffd q"
    done = subprocess.run([*command[:3], *command[4:]], input=b"bad \xff?\n", **options)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert "bad \ufffd?" in done.stdout.decode()
    assert "b\\udcff.mp4: 8 frames" in done.stdout.decode()


def test_questions_come_line_by_line_and_a_bad_one_ends_nothing(monkeypatch, capsys):
    lines = f"{COLOUR}\n\nIs <image> red?\n{COUNT}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    answer_all(parse([CLIP, "--max_completion_tokens", "4"]))
    printed = capsys.readouterr()
    assert printed.out.count("8 frames of 84 x 28 pixels") == 1  # said once
    assert printed.out.count("answer: ") == 2
    assert "cut off at --max_completion_tokens" in printed.out
    assert "the text of record 'Is <image> red?' holds 1 <image> for 0 file(s)" in printed.err


def test_an_input_without_a_question_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n  \n"))
    with pytest.raises(DataError, match="no question on the command line, and none in the input"):
        answer_all(parse([CLIP, "--options", "red", "blue", "Name the colour."]))
    printed = capsys.readouterr()
    assert not printed.out
    assert "choices of each: 'red', 'blue', 'Name the colour.'" in printed.err


def test_a_question_without_media_is_answered_and_that_is_said(monkeypatch, capsys):
    """On stderr, so that --json stays what it is; with media nothing is said."""
    note = "no media file is named: the model is asked without media\n"
    few = ["--max_completion_tokens", "2"]
    answer_all(parse([COLOUR, "--json", *few]))
    printed = capsys.readouterr()
    assert printed.err.count(note) == 1
    assert json.loads(printed.out)["shown"] == []

    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{COLOUR}\n"))
    answer_all(parse(few))
    assert capsys.readouterr().err.count(note) == 1
    answer_all(parse([CLIP, COLOUR, *few]))
    assert note not in capsys.readouterr().err


def test_a_broken_clip_ends_in_one_sentence(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    command = [sys.executable, str(REPO / "ask.py"), str(broken), COLOUR]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot read {broken} as a video (")
    assert last.endswith("); replace the file")
    assert "Traceback" not in done.stderr
