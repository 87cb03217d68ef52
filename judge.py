"""judge.py: the judge of stage 3, a frozen model that scores how a completion reasons.

The paper's judge is InternVL3-2B. It is shown frames of the clip, the question, a caption of the
sound, the gold answer and the completion, and scores four criteria in [0, 1]. Their mean is one
part of the reward (rewards.py). Here any vision language model serves, loaded here or behind a
server (tools/chat.py); on the toy world an oracle that knows the scene takes its place.

    (sample, reasoning, answer) --judge_prompt--> text  --+
            sample.media        --watch-------> frames  --+--ask--> reply --parse_verdict--+
                                                                                           |
            {"audio": 1.0, "visual": 0.5, "location": 0.0, "caption": 1.0} or None  <------+

How this differs from the released trainer:
 1. A verdict is read out of code fences and prose. One that cannot be used is asked for once more
    and then counts as missing, never as 0.
 2. The prompt is built by joining texts, so braces in it or in a completion cannot break it (the
    released judge dies at its first call).
 3. All completions of a step are judged in batches.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

import toy
from formats.sample import Away, DataError, Sample
from media.decode import MediaSettings, load_medium
from media.errors import MediaError
from media.workers import MEDIA_TIMEOUT, Decoders
from tools.chat import Endpoint, LocalModel, Request

DEFAULT_JUDGE = "OpenGVLab/InternVL3-2B-hf"

CRITERIA = {
    "audio": "audio-cue grounding: does the reasoning use the sounds that are there, and say "
    "rightly what they are and when?",
    "visual": "visual-object identification: are the objects that matter found and named rightly?",
    "location": "location accuracy: is each sounding object put in its right place?",
    "caption": "caption correctness: does the final answer agree with the gold answer?",
}

JUDGE_FRAMES = 8  # of each video
JUDGE_PIXELS = 448 * 448  # of each frame, at most
FRAME_CACHE = 256  # clips whose frames are kept

ONCE_MORE = "\n\nOnly the JSON object."  # added when a verdict could not be read
VERDICT_END = 20_000  # a verdict is looked for in the last characters of a reply
VERDICT_LENGTH = 2_000  # characters of a verdict, at most

# Completions in a row without a verdict, after which the judge counts as away: training on would be
# on the format reward alone.
MOST_MISSING = 16

Judged = tuple[Sample, str, str]  # a completion to be judged: its sample, reasoning and answer
Verdict = dict[str, float]  # criterion -> score in [0, 1]


# ------------------------------------------------------------------ the judge of a run
def make_judge(
    cfg, samples: list[Sample], device: torch.device
) -> Callable[[list[Judged]], list[Verdict | None]] | None:
    """What gives the verdicts of a run of train.py; None in stages that have no judge.

    cfg.judge: `oracle`, or a model's folder or hub name; empty: the oracle where all samples have a
    scene (the toy world), else DEFAULT_JUDGE. A model is loaded onto `device`, or asked at
    cfg.judge_endpoint. Raises DataError when the oracle is named and a sample has no scene.
    """
    if cfg.stage != 3:
        return None

    # only the toy world's samples have a scene, and the oracle needs it
    without_scene = [s for s in samples if s.scene is None]
    name = cfg.judge or (DEFAULT_JUDGE if without_scene else "oracle")
    if name == "oracle":
        if without_scene:
            sample = without_scene[0]
            raise DataError(
                f"{sample.where}: field 'scene' of record '{sample.id}' is empty, and the oracle "
                "judge reads it; pass --judge MODEL"
            )
        return oracle

    # a model is shown the clips, which a process of its own decodes unless --workers is 0
    if cfg.judge_endpoint:
        model = Endpoint(cfg.judge_endpoint, name)
    else:
        model = LocalModel(name, device)
    decoders = Decoders(1, MEDIA_TIMEOUT, watch) if cfg.workers else None
    return Judge(model, decoders)


def oracle(completions: list[Judged]) -> list[Verdict]:
    """The toy's judge: knows the scene."""
    return [
        toy.oracle_judge(reasoning, answer, sample.scene)
        for sample, reasoning, answer in completions
    ]


@dataclass
class Judge:
    """Scores completions with another model.

    decoders: processes that decode the frames under a deadline; None: this process does, without
    one. asked counts the verdicts asked for, missing those that stayed unusable after one more try
    or whose media could not be decoded. missing_in_a_row: of those that could be asked, since the
    last verdict. frames: of the last FRAME_CACHE clips, by media key.
    """

    model: Endpoint | LocalModel
    decoders: Decoders | None = None
    asked: int = 0
    missing: int = 0
    missing_in_a_row: int = 0
    frames: dict[str, list[np.ndarray] | MediaError | None] = field(default_factory=dict)

    def __call__(self, completions: list[Judged]) -> list[Verdict | None]:
        """The verdict on each completion; None where it is missing.

        Raises Away when the judge cannot be reached, or gives no verdict any more.
        """
        frames = self.watch_all([sample for sample, _, _ in completions])

        # One request per completion; none about media that cannot be decoded.
        requests: dict[int, Request] = {}
        for i, (sample, reasoning, answer) in enumerate(completions):
            if not isinstance(frames[i], MediaError):
                requests[i] = Request(judge_prompt(sample, reasoning, answer), frames[i])

        # All in one batch, then once more those whose verdict could not be read.
        verdicts: list[Verdict | None] = [None] * len(completions)
        replies: list[str] = []
        for addition in ("", ONCE_MORE):
            unread = [i for i in requests if verdicts[i] is None]
            if not unread:
                break
            batch = [Request(requests[i].text + addition, requests[i].frames) for i in unread]
            replies = self.model.ask(batch)
            for i, reply in zip(unread, replies, strict=True):
                verdicts[i] = parse_verdict(reply)

        # a few missing verdicts are no matter; none at all is
        if any(verdicts):
            self.missing_in_a_row = 0
        else:
            self.missing_in_a_row += len(requests)
        if self.missing_in_a_row >= MOST_MISSING:
            said = next((reply for reply in replies if reply), "")
            reason = f"its last reply was {said[:100]!r}" if said else "it refuses what it is sent"
            raise Away(
                f"the judge gave no verdict on {self.missing_in_a_row} completions in a row "
                f"({reason}); take another --judge, or one with a longer context"
            )

        self.asked += len(completions)
        self.missing += sum(verdict is None for verdict in verdicts)
        return verdicts

    def watch_all(self, samples: list[Sample]) -> list[list[np.ndarray] | MediaError | None]:
        """`watch` of each sample, each clip decoded once; or the error that says why there are no
        frames."""
        # Completions of one question, and questions about one clip, have the same media key.
        new = {s.media_key: s for s in samples if s.media_key not in self.frames}
        decoded = try_each(watch, list(new.values()), self.decoders)
        for result in decoded:
            if isinstance(result, MediaError):
                print(f"not judged: {result}", file=sys.stderr)

        frames = self.frames | dict(zip(new, decoded, strict=True))
        self.frames = dict(list(frames.items())[-FRAME_CACHE:])
        return [frames[s.media_key] for s in samples]


# ------------------------------------------------------------------ the words
def judge_prompt(sample: Sample, reasoning: str, answer: str) -> str:
    """The text shown to the judge with the frames. Joined, never formatted: a completion may hold
    braces."""
    criteria = "\n".join(f'- "{name}": {meaning}' for name, meaning in CRITERIA.items())
    example = json.dumps(dict.fromkeys(CRITERIA, 0.5))
    return "\n\n".join(
        [
            "These are frames of a video, in order. A model was asked about the video and its "
            "sound. Score its reply.",
            "Question: " + sample.question,
            "Sound of the video: " + (sample.audio_caption or "not described"),
            "Gold answer: " + sample.answer,
            "The model's reasoning: " + (reasoning or "none"),
            "The model's answer: " + (answer or "none"),
            "Score each criterion from 0 (wrong) to 1 (right):\n" + criteria,
            "Reply with one JSON object and nothing else, in the form " + example,
        ]
    )


def parse_verdict(reply: str) -> Verdict | None:
    """The four scores from a judge's reply: the last JSON object, in fences or prose, that has all
    four as numbers in [0, 1]. None when there is none in its last VERDICT_END characters.

    >>> parse_verdict('Sure! {"audio": 1, "visual": 0.5, "location": 0, "caption": 1.0} Bye.')
    {'audio': 1.0, 'visual': 0.5, 'location': 0.0, 'caption': 1.0}
    >>> parse_verdict('{"audio": 7, "visual": 0.5, "location": 0, "caption": 1}') is None
    True
    >>> parse_verdict("good") is None and parse_verdict('{"audio": 1}') is None
    True
    """
    reply = reply[-VERDICT_END:]
    decoder = json.JSONDecoder()
    start = reply.rfind("{")
    while start >= 0:
        # A bounded piece: to decode all that follows at every brace would take quadratic time.
        try:
            value, _ = decoder.raw_decode(reply[start : start + VERDICT_LENGTH])
        except (json.JSONDecodeError, RecursionError):
            value = {}
        scores = {name: value.get(name) for name in CRITERIA}
        if all(is_score(score) for score in scores.values()):
            return {name: float(score) for name, score in scores.items()}
        start = reply.rfind("{", 0, start)
    return None


def is_score(value: object) -> bool:
    """A number in [0, 1]. In Python True is an int, too, but it is no score."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


# ------------------------------------------------------------------ the frames
def watch(sample: Sample, frames: int = JUDGE_FRAMES) -> list[np.ndarray] | None:
    """What the judge sees: at most `frames` frames (H, W, 3) of each of a sample's videos, evenly
    spread, and its pictures, each of at most JUDGE_PIXELS; None without either."""
    settings = MediaSettings(
        fps=math.inf, max_frames=frames, max_pixels=JUDGE_PIXELS, use_audio=False
    )
    images: list[np.ndarray] = []
    for kind, path in sample.media:
        if kind != "audio":
            images += list(load_medium(kind, path, sample, settings).frames)
    return images or None


def try_each(function: Callable, samples: list[Sample], decoders: Decoders | None) -> list:
    """function(sample) of each sample, done by `decoders` where there are any, or the MediaError
    that it ended with."""
    if decoders:
        waits = [decoders.submit(sample).result for sample in samples]  # all at work from here on
    else:
        waits = [partial(function, sample) for sample in samples]
    results = []
    for wait in waits:
        try:
            results.append(wait())
        except MediaError as error:
            results.append(error)
    return results
