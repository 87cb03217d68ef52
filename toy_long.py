"""toy_long.py: questions about four clips of the toy world, whose reasoning is long.

    python train.py --stage 0 --model assets/tiny-omni --data toy-long:512,32      # a cold start
    python train.py --model CHECKPOINT --data toy-long:256,80 --max_completion_tokens 320

The questions of toy.py are solved in about 50 tokens. Temporal Advantage Shaping and the tiers are
said to matter more where reasoning is long, so a record here shows four clips and asks for
something that has to be found in each of them and added up: about 150 to 250 tokens. The plans of
solvers are those of toy.py: careful, guess, one-sense and slip.

    clip 1. listen: low tone 1101. look: blue disc left 0111 differs 1010 no. [..] count 0.
    clip 2. [..] count 1.   clip 3. [..] count 1.   clip 4. [..] count 2.   -> <answer>2</answer>

Clips are those of toy.py for the same stage and split, each seen in several records.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator

import toy
from formats.own import save_samples
from formats.sample import Sample
from toy import Question, Scene, Solution, Tone

CLIPS = 4  # of a record
VERSION = 1  # part of the file's name: raise it when the records change


def lowest_tone(scene: Scene) -> Tone:
    """Tones stand in the order of their pitch."""
    return scene.tones[0]


def ask_count_sources(scenes: list[Scene], rng: Generator) -> Question:
    """In how many clips is the source of the lowest tone of a given form? Without ears one takes
    the first shape."""
    form = str(rng.choice(toy.SHAPES))
    careful: list[str] = []
    glanced: list[str] = []
    n = n_glanced = 0
    for i, scene in enumerate(scenes, 1):
        tone = lowest_tone(scene)
        n += scene.at(tone.source).shape == form
        looks = [toy.compare(shape, [tone]) for shape in scene.shapes]
        careful += [f"clip {i}.", toy.listen(tone), *looks, f"count {n}."]

        first = scene.shapes[0]
        n_glanced += first.shape == form
        glanced += [f"clip {i}.", toy.look(first, "yes"), f"count {n_glanced}."]
    return Question(
        kind="count_sources",
        text=f"In how many of the clips is the shape that moves in step with the lowest tone a "
        f"{form}?",
        problem_type="numeric",
        answer=str(n),
        careful=Solution(careful, str(n)),
        one_sense=Solution(glanced, str(n_glanced)),
        slips=toy.near(n),
        guesses=[str(m) for m in range(CLIPS + 1)],
        hint="Take one clip after the other: listen for the lowest tone, line up every shape with "
        "it, and keep the count.",
    )


def ask_sum_together(scenes: list[Scene], rng: Generator) -> Question:
    """How many beats do the shapes share with the lowest tone, over all clips? Without ears one
    adds up the moves."""
    careful: list[str] = []
    watched: list[str] = []
    total = n_moves = 0
    for i, scene in enumerate(scenes, 1):
        tone = lowest_tone(scene)
        careful += [f"clip {i}.", toy.listen(tone)]
        watched += [f"clip {i}."]
        for shape in scene.shapes:
            together = toy.both(shape.beats, tone.beats)
            total += together.count("1")
            n_moves += shape.beats.count("1")
            careful += [toy.look(shape), f"together {together}.", f"sum {total}."]
            watched += [toy.look(shape), f"sum {n_moves}."]
    return Question(
        kind="sum_together",
        text="How many times do shapes move while the lowest tone of their clip sounds, in all "
        "clips together?",
        problem_type="numeric",
        answer=str(total),
        careful=Solution(careful, str(total)),
        one_sense=Solution(watched, str(n_moves)),
        slips=toy.near(total),
        guesses=[str(m) for m in range(6, 17)],
        hint="Take one clip after the other: listen for the lowest tone, line up every shape with "
        "it, and go on adding.",
    )


QUESTIONS: tuple[Callable[[list[Scene], Generator], Question], ...] = (
    ask_count_sources,
    ask_sum_together,
)


def make_record(
    clips: list[tuple[str, Scene]], name: str, number: int, stage: int, rng: Generator
) -> Sample:
    """One question about some clips, each as (its name, its scene). Stage 0 adds a trace."""
    scenes = [scene for _, scene in clips]
    question = QUESTIONS[number % len(QUESTIONS)](scenes, rng)
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
