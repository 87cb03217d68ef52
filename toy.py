"""toy.py: the embedded world. Renders audio-video clips and asks questions whose truth it knows.

    python toy.py --out toy_world --stage 2 --clips 8      # look at what the data looks like

A clip lasts 4 s and is cut into 4 beats of one second. Two or three coloured shapes stand at the
left, the centre and the right; each hops or flashes on some of the beats. One or two tones (low,
mid, high) sound on some of the beats. Every tone belongs to one shape, its SOURCE: source and tone
share exactly the same beats, no other shape does. The sound is mono, so a source can only be found
by lining up sound and picture, as in real video.

    beat             1 2 3 4
    left red square  . x . x     hops on beats 2 and 4     -> written "look: red square left 0101."
    right blue disc  x . . x     flashes on beats 1 and 4  -> written "look: blue disc right 1001."
    high tone        . x . x     sounds on beats 2 and 4   -> its source is the red square

From a random number to a training record:

    make_scene  ->  write_clip  ->  ask_...     ->  write_trace   ->  make_records  ->  build
    the truth       the .mp4        a Question      stage 0 only      Samples           the JSONL

Questions: stage 1 needs the eyes only, stage 2 eyes and ears, stage 3 locates every source. Stage 0
holds the worked `<think>...</think><answer>...</answer>` traces of the cold start. They mix plans
the way scraped human solutions would: some are careful (look, listen, line up, answer), some guess,
ignore a sense or slip in the last step. A model that imitates them is right about half of the time;
which plan pays off is left for reinforcement learning to find. The world knows nothing of training.

To add a question: a function ask_... (scene, rng) -> Question, and its name in QUESTIONS.
"""

import itertools
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from formats.own import save_samples
from formats.sample import Sample
from media.render import BEATS, COLOURS, FLOORS, PITCHES, write_clip
from problems import f1
from run.flags import Parser, number_in

TOY_ROOT = "toy_world"  # where runs render the world
VERSION = 3  # part of the folder's name: raise it when the world changes

PLACES = tuple(FLOORS)  # from left to right
SHAPES = ("square", "disc", "triangle")
ACTS = ("hop", "flash")

# Stage 0: how often solvers follow each plan. A hint makes most of them careful.
PLAN_WEIGHTS = {"careful": 0.36, "guess": 0.38, "one-sense": 0.13, "slip": 0.13}
HINTED = 0.60  # of the questions show their hint ...
HINTED_CAREFUL = 0.90  # ... and of those so many are solved by the careful plan


# ------------------------------------------------------------------ the scene: a clip's truth
@dataclass
class Shape:
    """One shape: where it stands, what it is, how and when it moves."""

    place: str
    colour: str
    shape: str
    act: str
    beats: str  # one 0 or 1 per beat

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass
class Tone:
    """One tone: its pitch, its beats (as in Shape) and the place of the shape that makes it."""

    pitch: str
    beats: str
    source: str


@dataclass
class Scene:
    """The whole truth of a clip. Shapes from left to right."""

    shapes: list[Shape]
    tones: list[Tone]

    def at(self, place: str) -> Shape | None:
        """The shape that stands at a place."""
        return next((s for s in self.shapes if s.place == place), None)


def both(a: str, b: str) -> str:
    """Beats on which both patterns have a one: both('0110', '0011') -> '0010'."""
    return "".join("1" if x == y == "1" else "0" for x, y in zip(a, b, strict=True))


def unequal(a: str, b: str) -> str:
    """Beats on which the patterns differ: unequal('0110', '0011') -> '0101'."""
    return "".join("1" if x != y else "0" for x, y in zip(a, b, strict=True))


def draw_beats(rng: Generator, low: int, high: int, others: list[str]) -> str:
    """A random pattern of `low`..`high` ones that differs from the others on two beats at least."""
    while True:
        ones = rng.choice(BEATS, size=rng.integers(low, high + 1), replace=False)
        beats = "".join("1" if beat in ones else "0" for beat in range(BEATS))
        if all(unequal(beats, other).count("1") > 1 for other in others):
            return beats


def make_scene(rng: Generator) -> Scene:
    """Draw a scene. Beats of any two shapes differ on two beats at least, so that every tone has
    exactly one source."""
    # Two or three shapes at different places, of different colours.
    places = sorted(rng.choice(len(PLACES), size=rng.integers(2, 4), replace=False))
    colours = rng.permutation(list(COLOURS))
    shapes: list[Shape] = []
    for place, colour in zip(places, colours, strict=False):  # more colours than places
        beats = draw_beats(rng, 1, 3, [s.beats for s in shapes])
        shape = str(rng.choice(SHAPES))
        act = str(rng.choice(ACTS))
        shapes.append(Shape(PLACES[place], str(colour), shape, act, beats))

    # One or two tones, each in step with a shape of its own.
    n_tones = int(rng.integers(1, 3))
    sources = sorted(rng.choice(len(shapes), size=n_tones, replace=False))
    pitches = sorted(rng.choice(len(PITCHES), size=n_tones, replace=False))
    rng.shuffle(sources)  # so that a low tone is not always on the left
    tones: list[Tone] = []
    for pitch, source in zip(pitches, sources, strict=True):
        tones.append(Tone(list(PITCHES)[pitch], shapes[source].beats, shapes[source].place))
    return Scene(shapes, tones)


# ------------------------------------------------------------------ the lines of a solver
def look(shape: Shape, verdict: str = "", beats: bool = True) -> str:
    """What a shape is, where it is, when it moves, and whether it is what was looked for."""
    words = ["look:", shape.name, shape.place]
    if beats:
        words.append(shape.beats)
    if verdict:
        words.append(verdict)
    return " ".join(words) + "."


def listen(tone: Tone) -> str:
    """When a tone sounds."""
    return f"listen: {tone.pitch} tone {tone.beats}."


def find(scene: Scene, shape: Shape) -> list[str]:
    """Look from left to right until the shape is found, whose beats are noted.

    A small model reads off a place what stands there long before it can say where a named thing
    stands, so plans scan.
    """
    skipped = scene.shapes[: scene.shapes.index(shape)]
    return [look(s, "skip", beats=False) for s in skipped] + [look(shape)]


def compare(shape: Shape, tones: list[Tone]) -> str:
    """On which beats a shape differs from each of the tones, and whether it never differs from one.

    >>> square = Shape("left", "red", "square", "hop", "0101")
    >>> compare(square, [Tone("low", "1001", "right"), Tone("high", "0101", "left")])
    'look: red square left 0101 differs 1100 0000 yes.'
    """
    differences = [unequal(shape.beats, tone.beats) for tone in tones]
    verdict = "yes" if "0" * BEATS in differences else "no"
    return look(shape, f"differs {' '.join(differences)} {verdict}")


def search(scene: Scene, tone: Tone) -> list[str]:
    """Listen to a tone, then look from left to right for the shape that never differs from it."""
    source = scene.shapes.index(scene.at(tone.source))
    return [listen(tone)] + [compare(s, [tone]) for s in scene.shapes[: source + 1]]


# ------------------------------------------------------------------ the questions
SEARCH_HINT = (
    "Listen for the {} tone, then watch one shape after the other and line them up beat by beat."
)


class Solution(NamedTuple):
    """What a solver thinks and answers. Multiple choice is answered with the option's text."""

    lines: list[str]
    answer: str


@dataclass
class Question:
    """A question about a scene, its gold answer, and what solvers of each plan say to it."""

    kind: str
    text: str
    problem_type: str
    answer: str  # gold
    careful: Solution  # the full plan
    one_sense: Solution  # the plan that skips a sense
    slips: list[str] = field(default_factory=list)  # answers that a slip in the last step leads to
    guesses: list[str] = field(default_factory=list)  # what one may answer without looking
    options: list[str] = field(default_factory=list)
    hint: str = ""


def near(n: int) -> list[str]:
    """The counts next to n: near(0) -> ['1'], near(3) -> ['2', '4']."""
    return [str(m) for m in (n - 1, n + 1) if m >= 0]


def letter_options(names: list[str], right: str, rng: Generator) -> tuple[list[str], str]:
    """The names in random order as options, ["A. blue disc", "B. red square"], and the right one's
    letter."""
    shuffled = [str(name) for name in rng.permutation(names)]
    options = [f"{letter}. {name}" for letter, name in zip("ABC", shuffled, strict=False)]
    return options, "ABC"[shuffled.index(right)]


def locate(shapes: list[Shape]) -> str:
    """The localisation answer, from left to right: 'left: red square | right: blue disc'."""
    return " | ".join(f"{s.place}: {s.name}" for s in shapes)


def ask_count_moves(scene: Scene, rng: Generator) -> Question:
    """Stage 1: count the moves of one shape."""
    shape = scene.shapes[rng.integers(len(scene.shapes))]
    n = shape.beats.count("1")
    return Question(
        kind="count_moves",
        text=f"How many times does the {shape.name} {shape.act}?",
        problem_type="numeric",
        answer=str(n),
        careful=Solution([*find(scene, shape), f"sum {n}."], str(n)),
        one_sense=Solution([f"look: {shape.name}."], str(rng.integers(1, 4))),
        slips=near(n),
        guesses=list("123"),
        hint=f"Watch the {shape.name} beat by beat, then add up.",
    )


def ask_first_mover(scene: Scene, rng: Generator) -> Question | None:
    """Stage 1: compare the first moves of all shapes; None where two shapes move first."""
    starts = [s.beats.index("1") for s in scene.shapes]
    if starts.count(min(starts)) > 1:
        return None
    names = [s.name for s in scene.shapes]
    first = names[starts.index(min(starts))]
    options, letter = letter_options(names, first, rng)
    lines = [look(s, f"from {n + 1}") for s, n in zip(scene.shapes, starts, strict=True)]
    return Question(
        kind="first_mover",
        text="Which shape moves first?",
        problem_type="multiple choice",
        answer=letter,
        options=options,
        careful=Solution(lines, first),
        one_sense=Solution(lines[:1], names[0]),
        slips=[name for name in names if name != first],
        guesses=names,
        hint="Watch every shape, then compare their first moves.",
    )


def ask_count_together(scene: Scene, rng: Generator) -> Question:
    """Stage 2: count the beats that a shape and a tone share. Without ears one counts the moves."""
    tone = scene.tones[rng.integers(len(scene.tones))]
    # Mostly not the tone's source, whose count the tone alone would give.
    others = [s for s in scene.shapes if s.place != tone.source]
    shape = scene.at(tone.source) if rng.random() < 0.25 else others[rng.integers(len(others))]
    together = both(shape.beats, tone.beats)
    n = together.count("1")
    n_moves = str(shape.beats.count("1"))
    watched = find(scene, shape)
    return Question(
        kind="count_together",
        text=f"How many times does the {shape.name} {shape.act} "
        f"while the {tone.pitch} tone sounds?",
        problem_type="numeric",
        answer=str(n),
        careful=Solution([*watched, listen(tone), f"together {together}.", f"sum {n}."], str(n)),
        one_sense=Solution([*watched, f"sum {n_moves}."], n_moves),
        slips=near(n),
        guesses=list("0123"),
        hint=f"Watch the {shape.name}, listen for the {tone.pitch} tone, "
        "line them up beat by beat, then add up.",
    )


def ask_which_sounds(scene: Scene, rng: Generator) -> Question:
    """Stage 2: find a tone's source. Without ears one takes the first shape that one glances at."""
    tone = scene.tones[rng.integers(len(scene.tones))]
    source = scene.at(tone.source).name
    names = [s.name for s in scene.shapes]
    options, letter = letter_options(names, source, rng)
    glanced = scene.shapes[rng.integers(len(scene.shapes))]
    return Question(
        kind="which_sounds",
        text=f"Which shape moves in step with the {tone.pitch} tone?",
        problem_type="multiple choice",
        answer=letter,
        options=options,
        careful=Solution(search(scene, tone), source),
        one_sense=Solution([look(glanced, "yes")], glanced.name),
        slips=[name for name in names if name != source],
        guesses=names,
        hint=SEARCH_HINT.format(tone.pitch),
    )


def ask_colour_sounds(scene: Scene, rng: Generator) -> Question:
    """Stage 2: the same, asked for the source's colour in free text."""
    tone = scene.tones[rng.integers(len(scene.tones))]
    source = scene.at(tone.source)
    glanced = scene.shapes[rng.integers(len(scene.shapes))]
    return Question(
        kind="colour_sounds",
        text=f"What colour is the shape that moves in step with the {tone.pitch} tone?",
        problem_type="free-form",
        answer=source.colour,
        careful=Solution(search(scene, tone), source.colour),
        one_sense=Solution([look(glanced, "yes")], glanced.colour),
        slips=[s.colour for s in scene.shapes if s.place != tone.source],
        guesses=list(COLOURS),
        hint=SEARCH_HINT.format(tone.pitch),
    )


def ask_locate(scene: Scene, rng: Generator) -> Question:
    """Stage 3: find the sources of all tones. Without ears one names all shapes."""
    shapes = scene.shapes
    sounding = {t.source for t in scene.tones}
    answer = locate([s for s in shapes if s.place in sounding])
    lines = [listen(t) for t in scene.tones] + [compare(s, scene.tones) for s in shapes]
    subsets = [shapes, shapes[:2], shapes[-2:]] + [[s] for s in shapes]
    guesses = sorted({locate(subset) for subset in subsets})
    return Question(
        kind="locate",
        text="Which shapes make a sound, and where are they?",
        problem_type="localisation",
        answer=answer,
        careful=Solution(lines, answer),
        one_sense=Solution([look(s) for s in shapes], locate(shapes)),
        slips=[guess for guess in guesses if guess != answer],
        guesses=guesses,
        hint="Listen for every tone, watch every shape, line them up beat by beat, "
        "then say where the sources are.",
    )


def ask_describe(scene: Scene, rng: Generator) -> Question:
    """Stage 0: a dense caption, from which a pretrained model would have learned to see and hear.
    It has no hint and is always answered by the careful plan."""
    answer = locate(scene.shapes)
    lines = [look(s) for s in scene.shapes] + [listen(t) for t in scene.tones]
    return Question(
        kind="describe",
        text="What moves and what sounds, beat by beat?",
        problem_type="localisation",
        answer=answer,
        careful=Solution(lines, answer),
        one_sense=Solution(lines, answer),
    )


QUESTIONS = {
    1: (ask_count_moves, ask_first_mover),
    2: (ask_count_together, ask_which_sounds, ask_colour_sounds),
    3: (ask_locate,),
}


# ------------------------------------------------------------------ traces and records
def write_trace(question: Question, plan: str, rng: Generator) -> str:
    """The `<think>...</think><answer>...</answer>` text of a solver who follows a plan."""
    lines, answer = question.careful
    if plan == "guess":
        lines = ["guess."]
        answer = str(rng.choice(question.guesses))
    elif plan == "one-sense":
        lines, answer = question.one_sense
    elif plan == "slip":
        answer = str(rng.choice(question.slips))
        if lines[-1].startswith("sum "):
            lines = [*lines[:-1], f"sum {answer}."]
    return f"<think>{' '.join(lines)}</think><answer>{answer}</answer>"


def audio_caption(tones: list[Tone]) -> str:
    """What one hears in the clip, in words, as a model that captions sound would say."""
    heard = []
    for tone in tones:
        times = "once" if tone.beats.count("1") == 1 else "several times"
        heard.append(f"a {tone.pitch} tone that sounds {times}")
    caption = " and ".join(heard)
    return f"{caption[0].upper()}{caption[1:]}."


def askers(stage: int, rng: Generator) -> list[Callable[[Scene, Generator], Question | None]]:
    """In which order a clip's questions are asked: more than are needed, since a kind may not fit
    the scene or may give the same question again."""
    if stage > 0:
        first = int(rng.integers(6))  # clips begin with different kinds
        kinds = QUESTIONS[stage]
        return [kinds[(first + i) % len(kinds)] for i in range(8)]
    kinds = list(itertools.chain.from_iterable(QUESTIONS.values()))
    asked = [ask_describe]
    for _ in range(4):
        asked += [kinds[i] for i in rng.permutation(len(kinds))]
    return asked


def make_records(scene: Scene, clip: str, stage: int, rng: Generator, n: int) -> list[Sample]:
    """Up to n records of one clip. Stages 1-3 ask questions of their own kinds; stage 0 asks for a
    description, then questions of any kind, and adds traces."""
    records: list[Sample] = []
    for ask in askers(stage, rng):
        if len(records) == n:
            break
        question = ask(scene, rng)
        if question is None or any(question.text == r.question for r in records):
            continue

        # the scene goes along for the oracle judge of stage 3
        record = Sample(
            f"{clip}-{len(records)}",
            question.text,
            question.problem_type,
            question.answer,
            videos=[f"clips/{clip}.mp4"],
            options=question.options,
            hint=question.hint,
            audio_caption=audio_caption(scene.tones),
            stage=stage,
            kind=question.kind,
            scene=asdict(scene),
        )
        if stage == 0:
            add_trace(record, question, rng)
        records.append(record)
    return records


def add_trace(record: Sample, question: Question, rng: Generator) -> None:
    """Stage 0: draw whether the hint is in view and which plan is followed, and write the trace."""
    has_hint = bool(question.hint)
    hinted = has_hint and rng.random() < HINTED
    if not has_hint or (hinted and rng.random() < HINTED_CAREFUL):
        record.plan = "careful"
    else:
        record.plan = str(rng.choice(list(PLAN_WEIGHTS), p=list(PLAN_WEIGHTS.values())))
    record.hint = question.hint if hinted else ""
    record.trace = write_trace(question, record.plan, rng)


# ------------------------------------------------------------------ the world on disk
def stream_of(stage: int, split: str, i: int, seed: int) -> list[int]:
    """The seed of one clip's own random stream, so that any number of clips is reproducible."""
    return [VERSION, seed, stage, int(split == "heldout"), i]


def draw_clip(stage: int, split: str, i: int, seed: int = 0) -> tuple[str, Scene, Generator]:
    """(name, scene, the random stream after it) of clip i of a split."""
    rng = np.random.default_rng(stream_of(stage, split, i, seed))
    return f"stage{stage}-{split}-{i:05d}", make_scene(rng), rng


def build(
    root: str | Path, stage: int, split: str, clips: int, seed: int = 0, progress: bool = True
) -> Path:
    """Render clips of a split ("train" or "heldout") for a stage under `root`, and write their
    records. Returns the JSONL's path.

    The two splits draw from different random streams and share no scene. Clips that are on disk
    already are kept.
    """
    folder = Path(root) / f"v{VERSION}-seed{seed}"
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    per_clip = 7 if stage == 0 and split == "train" else 2
    n_records = per_clip + 1 if stage == 0 else per_clip  # stage 0: and a description

    def build_clip(i: int) -> list[Sample]:
        clip, scene, rng = draw_clip(stage, split, i, seed)
        path = folder / "clips" / f"{clip}.mp4"
        if not path.exists():
            write_clip(path, scene, np.random.default_rng([*stream_of(stage, split, i, seed), 1]))
        return make_records(scene, clip, stage, rng, n_records)

    samples: list[Sample] = []
    title = f"rendering stage {stage} {split} clips"
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the encoders release the GIL
        built = pool.map(build_clip, range(clips))
        for records in tqdm(built, total=clips, desc=title, disable=not progress, leave=False):
            samples += records
    table = folder / f"stage{stage}_{split}_{clips}x{per_clip}.jsonl"
    save_samples(table, samples)
    return table


# ------------------------------------------------------------------ the judge of stage 3
def oracle_judge(reasoning: str, answer: str, scene: dict) -> dict[str, float]:
    """An ORACLE that reads the scene's truth, in place of the paper's frozen vision-language model.

    It scores the paper's four criteria, each in [0, 1]. audio: the fraction of the tones whose
    beats the reasoning states rightly. visual: F1 of the shapes that are named and those that are
    there. location: F1 of the answered places with their shapes and the sounding ones. caption:
    does the answer name exactly the sources?
    """
    shapes = [Shape(**s) for s in scene["shapes"]]
    tones = [Tone(**t) for t in scene["tones"]]
    sources = {t.source for t in tones}

    # What is true, what was answered, and which shapes the completion names anywhere.
    gold = {(s.place, s.name) for s in shapes if s.place in sources}

    answered = set()
    for item in answer.split("|"):
        place, colon, name = item.partition(":")
        if colon:
            answered.add((place.strip(), name.strip()))
    named = {name for _, name in answered}
    for colour in COLOURS:
        named |= {f"{colour} {s}" for s in SHAPES if f"{colour} {s}" in reasoning}

    stated = [tone for tone in tones if f"{tone.pitch} tone {tone.beats}" in reasoning]
    return {
        "audio": len(stated) / len(tones),
        "visual": f1(named, {s.name for s in shapes}),
        "location": f1(answered, gold),
        "caption": float(answered == gold),
    }


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=TOY_ROOT, help="folder to render into")
    parser.add_argument("--stage", type=int, default=2, choices=range(4))
    parser.add_argument("--split", default="train", choices=("train", "heldout"))
    parser.add_argument("--clips", type=number_in(int, 1), default=8)
    parser.add_argument("--seed", type=number_in(int, 0), default=0)
    args = parser.parse_args()
    table = build(args.out, args.stage, args.split, args.clips, seed=args.seed)
    first = json.loads(table.read_text().splitlines()[0])
    print(f"wrote {table}; its first record:\n{json.dumps(first, indent=1)}")


if __name__ == "__main__":
    main()
