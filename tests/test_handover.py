"""docs/models.md: the lines that ask a checkpoint in transformers, against ask.py."""

import re

import pytest

from ask import make_sample, parse
from run.conversation import Conversation
from tests.runs import REPO


def test_transformers_own_processor_and_generate_give_the_same_reply(tmp_path):
    pytest.importorskip("torchvision", reason="transformers' processor of videos needs torchvision")
    conversation = Conversation(parse([]))
    conversation.policy.shown = conversation.builder.settings
    conversation.policy.save(tmp_path)  # as a run's checkpoint

    page = (REPO / "docs" / "models.md").read_text()
    (code,) = re.findall(r"```python\n(import av\n.*?)```", page, flags=re.DOTALL)
    code = code.replace("runs/stage2-avatar-seed0/checkpoint", str(tmp_path))
    code = code.replace("assets/clip.mp4", str(REPO / "assets" / "clip.mp4"))
    names = {}
    exec(code, names)

    media = {"video": [str(REPO / "assets" / "clip.mp4")], "image": [], "audio": []}
    question = names["question"].splitlines()[0]
    ours = conversation.ask(make_sample(parse([]), media, question))
    assert ours.prompt_tokens == names["inputs"]["input_ids"].shape[1]
    (answer,) = ours.answers
    expected = f"<think>{answer.reasoning}</think><answer>{answer.answer}</answer><|im_end|>"
    assert names["reply"] == expected
