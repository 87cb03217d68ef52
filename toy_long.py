r"""toy_long.py: questions about two clips of the toy world, whose reasoning is long.

    python train.py --stage 0 --model assets/tiny-omni --data toy-long:4096,32 --steps 400 \
        --prompts_per_step 16 --lr 1e-3 --train_towers false --max_completion_tokens 400
    python train.py --model CHECKPOINT --data toy-long:256,160 --max_completion_tokens 400

The questions of toy.py are solved in about 50 tokens. Temporal Advantage Shaping and the tiers are
said to matter more where reasoning is long. So a record here shows two clips, and asks for how many
of the two to four tones in them the source stands at the left, or is a square. The plans of solvers
are those of toy.py: careful, guess, one-sense and slip; the careful one takes 135 to 325 tokens.

    clip 1. listen: low tone 1101. look: blue disc left 0111 differs 1010 no. [..] found right no.
    count 0. clip 2. listen: mid tone 0010. [..] found left yes. count 1.   -> <answer>1</answer>

Clips are those of toy.py for the same stage and split, each in two records on average.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator

import toy
from formats.own import save_samples
from formats.sample import Sample
from toy import Question, Scene, Shape, Solution

CLIPS = 2  # of a record
VERSION = 2  # part of the file's name: raise it when the records change


def ask_count_left(scenes: list[Scene]) -> Question:
    """How many sources stand at the left?"""
    return ask_count("left", "stands at the left", lambda shape: shape.place, scenes)


def ask_count_square(scenes: list[Scene]) -> Question:
    """How many sources are squares?"""
    return ask_count("square", "is a square", lambda shape: shape.shape, scenes)


def ask_count(
    wanted: str, clause: str, trait: Callable[[Shape], str], scenes: list[Scene]
) -> Question:
    """For how many of the tones does their source have a trait?

    wanted: the value of the trait; clause: the same in words. Of each trait one value alone is
    asked for: a model as small as the bundled one does not learn in a short cold start to read it
    from the question. Without ears one counts the first shapes of the clips.
    """
    careful: list[str] = []
    glanced: list[str] = []
    n = n_glanced = n_tones = 0
    for i, scene in enumerate(scenes, 1):
        careful.append(f"clip {i}.")
        for tone in scene.tones:
            found = trait(scene.at(tone.source))
            n += found == wanted
            n_tones += 1
            careful += [toy.listen(tone), *(toy.compare(shape, [tone]) for shape in scene.shapes)]
            careful.append(f"found {found} {'yes' if found == wanted else 'no'}. count {n}.")
        first = scene.shapes[0]
        n_glanced += trait(first) == wanted
        glanced += [f"clip {i}.", toy.look(first, "yes"), f"count {n_glanced}."]
    return Question(
        kind=f"count_{wanted}",
        text=f"For how many of the tones is it true that the shape that moves in step with it "
        f"{clause}?",
        problem_type="numeric",
        answer=str(n),
        careful=Solution(careful, str(n)),
        one_sense=Solution(glanced, str(n_glanced)),
        slips=toy.near(n),
        guesses=[str(m) for m in range(n_tones + 1)],
        hint="Take one clip after the other: listen for every tone, line up every shape with it, "
        "and keep the count.",
    )


QUESTIONS: tuple[Callable[[list[Scene]], Question], ...] = (ask_count_left, ask_count_square)


def make_record(
    clips: list[tuple[str, Scene]], name: str, number: int, stage: int, rng: Generator
) -> Sample:
    """One question about some clips, each as (its name, its scene). Stage 0 adds a trace."""
    scenes = [scene for _, scene in clips]
    question = QUESTIONS[number % len(QUESTIONS)](scenes)
    record = Sample(
        name,
        question.text,
        question.problem_type,
        question.answer,
        videos=[f"clips/{clip}.mp4" for clip, _ in clips],
        hint=question.hint,
        stage=stage,
        kind=question.kind,
    )
    if stage == 0:
        toy.add_trace(record, question, rng)
    return record


def build(
    root: str | Path, stage: int, split: str, records: int, seed: int = 0, progress: bool = True
) -> Path:
    """Write so many records of a split ("train" or "heldout"), over as many clips, which are
    rendered where they are not there yet. Returns the JSONL's path."""
    folder = toy.build(root, stage, split, records, seed, progress).parent  # with the clips
    samples = []
    for i in range(records):
        rng = np.random.default_rng([VERSION, toy.VERSION, seed, stage, int(split == "heldout"), i])
        chosen = rng.choice(records, size=CLIPS, replace=records < CLIPS)
        clips = [toy.draw_clip(stage, split, int(clip), seed)[:2] for clip in chosen]
        samples.append(make_record(clips, f"long-{split}-{i:05d}", i, stage, rng))
    table = folder / f"long{VERSION}_stage{stage}_{split}_{records}.jsonl"
    save_samples(table, samples)
    return table
