"""toy.py: the embedded world. Renders real audio-video clips and asks questions whose truth it knows.

    python toy.py --out toy_world --stage 2 --clips 8      # look at what the data looks like

A clip lasts 4 s and is cut into 4 beats of one second. Two or three coloured shapes stand at the left, the
centre and the right; each one hops or flashes on some of the beats. One or two tones (low, mid, high) sound on some of
the beats. Every tone belongs to one shape, its SOURCE: source and tone share exactly the same beats, no other shape does.
The sound is mono, so a source can only be found by lining up sound and picture, as in real video.

    beat             1 2 3 4
    left red square  . x . x     hops on beats 2 and 4         -> written "look: red square left 0101."
    right blue disc  x . . x     flashes on beats 1 and 4      -> written "look: blue disc right 1001."
    high tone        . x . x     sounds on beats 2 and 4       -> its source is the red square

Questions: stage 1 needs the eyes only, stage 2 eyes and ears, stage 3 locates every source ("left: red square | ...").
Stage 0 holds the worked `<think>...</think><answer>...</answer>` traces of the cold start. They mix strategies the way scraped
human solutions would: some careful (look, listen, line up, answer), some that guess, ignore a sense or slip in the last
step. A model imitating them is right about half of the time; which plan pays off is left for reinforcement learning to find.
The world knows nothing of the training method. Files: H.264 + AAC `.mp4` by PyAV, records as JSONL (schema: data.py).
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from formats.own import save_samples
from formats.sample import Sample
from problems import f1

VERSION = 3  # part of the cache folder's name: raise it when the world changes

BEATS, BEAT_SECONDS = 4, 1.0

VIDEO_FPS, CELL = 8, 56  # 32 frames of 3 cells side by side: 168 x 56 pixels

SAMPLE_RATE = 16_000

PLACES = {
    "left": (150, 60, 20),
    "centre": (20, 120, 120),
    "right": (150, 40, 150),
}  # and the colour of the floor there

COLOURS = {
    "red": (225, 45, 45),
    "green": (40, 190, 70),
    "blue": (60, 90, 240),
    "yellow": (235, 215, 50),
}

SHAPES = ("square", "disc", "triangle")

ACTS = ("hop", "flash")

PITCHES = {"low": 300.0, "mid": 800.0, "high": 2200.0}  # Hz

LETTERS = "ABCD"

PLAN_SHARES = {"careful": 0.36, "guess": 0.38, "one-sense": 0.13, "slip": 0.13}

HINTED, HINTED_CAREFUL = (
    0.60,
    0.90,
)  # share of stage-0 questions with the hint in view, and of careful traces among them


@dataclass
class Shape:
    """One shape: where it stands, what it is, how and when it moves (`beats`: one 0 or 1 per beat)."""

    place: str
    colour: str
    shape: str
    act: str
    beats: str

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
    """The whole truth of a clip."""

    shapes: list[Shape]
    tones: list[Tone]

    def at(self, place: str) -> Shape:
        """The shape that stands at `place`."""
        return next(s for s in self.shapes if s.place == place)


def draw_beats(rng: np.random.Generator, low: int, high: int, others: set[str]) -> str:
    """A random beat pattern with `low`..`high` ones that differs from each of `others` on two beats at least."""
    while True:
        ones = rng.choice(BEATS, size=rng.integers(low, high + 1), replace=False)
        beats = "".join("1" if b in ones else "0" for b in range(BEATS))
        if all(sum(x != y for x, y in zip(beats, other, strict=True)) > 1 for other in others):
            return beats


def make_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene. The beat patterns of any two shapes differ on two beats at least, so every tone has exactly one source."""
    places = sorted(rng.choice(3, size=rng.integers(2, 4), replace=False))
    colours = rng.permutation(list(COLOURS))
    shapes: list[Shape] = []
    for place, colour in zip(places, colours, strict=False):
        beats = draw_beats(rng, 1, 3, {s.beats for s in shapes})
        shapes.append(
            Shape(
                list(PLACES)[place],
                str(colour),
                str(rng.choice(SHAPES)),
                str(rng.choice(ACTS)),
                beats,
            )
        )
    n_tones = int(rng.integers(1, 3))
    sources = sorted(rng.choice(len(shapes), size=n_tones, replace=False))
    pitches = sorted(rng.choice(len(PITCHES), size=n_tones, replace=False))
    rng.shuffle(sources)
    tones = [
        Tone(list(PITCHES)[p], shapes[s].beats, shapes[s].place)
        for p, s in zip(pitches, sources, strict=True)
    ]
    return Scene(shapes, tones)


def draw_cell(place: str, shape: Shape | None, moving: bool, light: int) -> np.ndarray:
    """One 56 x 56 cell: the floor of `place`, a wall of grey level `light`, the shape at rest or moving. Returns (56, 56, 3) uint8."""
    cell = Image.new("RGB", (CELL, CELL), (light,) * 3)
    pen = ImageDraw.Draw(cell)
    pen.rectangle((0, 48, CELL, CELL), fill=PLACES[place])
    if shape is None:
        return np.asarray(cell)
    top = 2 if moving and shape.act == "hop" else 20
    if moving and shape.act == "flash":
        pen.rectangle((4, 4, 52, 47), fill=(250, 250, 250))
    if shape.shape == "square":
        pen.rectangle((13, top, 43, top + 27), fill=COLOURS[shape.colour])
    elif shape.shape == "disc":
        pen.ellipse((19, top + 9, 37, top + 27), fill=COLOURS[shape.colour])
    else:
        pen.polygon(((28, top), (51, top + 27), (5, top + 27)), fill=COLOURS[shape.colour])
    return np.asarray(cell)


def render_frames(scene: Scene) -> np.ndarray:
    """All frames of the clip, (32, 56, 168, 3) uint8. Day breaks over the four seconds: the wall behind the shapes gets lighter."""
    at = {s.place: s for s in scene.shapes}
    beats = [
        np.concatenate(
            [
                draw_cell(
                    place, at.get(place), place in at and at[place].beats[b] == "1", 16 + 32 * b
                )
                for place in PLACES
            ],
            axis=1,
        )
        for b in range(BEATS)
    ]  # one (56, 168, 3) per beat
    return np.repeat(np.stack(beats), int(VIDEO_FPS * BEAT_SECONDS), axis=0)


def render_sound(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The mono sound track, (64000,) float32 in [-1, 1] at 16 kHz: a 0.8 s burst in the middle of each sounding beat."""
    n = int(BEAT_SECONDS * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    envelope = np.clip(np.minimum(t - 0.1, 0.9 - t) / 0.02, 0, 1)
    sound = 0.002 * rng.standard_normal(n * BEATS)
    for tone in scene.tones:
        burst = 0.35 * envelope * np.sin(2 * np.pi * PITCHES[tone.pitch] * t)
        for beat, bit in enumerate(tone.beats):
            if bit == "1":
                sound[beat * n : (beat + 1) * n] += burst
    return sound.astype(np.float32)


def write_clip(path: Path, scene: Scene, rng: np.random.Generator) -> None:
    """Render `scene` to an H.264 + AAC mp4 at `path`; written to a name of this process's own first, so a clip is whole or absent."""
    frames, sound = render_frames(scene), render_sound(scene, rng)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with av.open(str(partial), "w", format="mp4") as box:
        video = box.add_stream(
            "libx264", rate=VIDEO_FPS, options={"crf": "18", "preset": "veryfast"}
        )
        video.width, video.height, video.pix_fmt, video.thread_count = 3 * CELL, CELL, "yuv420p", 1
        audio = box.add_stream(
            "aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"}
        )
        audio.bit_rate = 48_000
        for array in frames:
            box.mux(video.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        box.mux(video.encode())
        block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        block.sample_rate = SAMPLE_RATE
        box.mux(audio.encode(block))
        box.mux(audio.encode())
    partial.rename(path)


@dataclass
class Question:
    """A question about a scene and the lines a thinker may write on the way to its answer.

    careful: the lines of the full plan; one_sense: the lines and the answer of the plan that skips a sense; slips: the wrong
    answers a slip in the last step leads to; guesses: what one may answer without looking. Solvers answer a multiple-choice question with the
    option's text.
    """

    kind: str
    text: str
    problem_type: str
    answer: str
    options: list[str]
    careful: list[str]
    one_sense: tuple[list[str], str]
    slips: list[str]
    guesses: list[str]
    hint: str
    said: str = ""  # how a solver words the right answer, when not as `answer` does


def look(shape: Shape, verdict: str = "", beats: bool = True) -> str:
    """A line of a plan: what a shape is, where it is, when it moves, (whether that is what was looked for)."""
    return (
        " ".join(
            part
            for part in ("look:", shape.name, shape.place, shape.beats if beats else "", verdict)
            if part
        )
        + "."
    )


def find(scene: Scene, wanted: Shape) -> list[str]:
    """Lines of a plan: from left to right until the wanted shape is found, whose beats are noted.

    A small model reads off a place what stands there long before it can say where a named thing stands, so plans scan.
    """
    at = scene.shapes.index(wanted)
    return [look(s, "skip", beats=False) for s in scene.shapes[:at]] + [look(wanted)]


def listen(tone: Tone) -> str:
    """A line of a plan: when a tone sounds."""
    return f"listen: {tone.pitch} tone {tone.beats}."


def both(a: str, b: str) -> str:
    """Beats on which both patterns have a one: both('0110', '0011') -> '0010'."""
    return "".join("1" if x == y == "1" else "0" for x, y in zip(a, b, strict=True))


def near(n: int) -> list[str]:
    """The counts next to n: near(0) -> ['1'], near(3) -> ['2', '4']."""
    return [str(m) for m in (n - 1, n + 1) if m >= 0]


def ask_count_moves(scene: Scene, rng: np.random.Generator) -> Question:
    shape = scene.shapes[rng.integers(len(scene.shapes))]
    n = shape.beats.count("1")
    return Question(
        "count_moves",
        f"How many times does the {shape.name} {shape.act}?",
        "numeric",
        str(n),
        [],
        [*find(scene, shape), f"sum {n}."],
        ([f"look: {shape.name}."], str(rng.integers(1, 4))),
        near(n),
        list("123"),
        f"Watch the {shape.name} beat by beat, then add up.",
    )


def ask_first_mover(scene: Scene, rng: np.random.Generator) -> Question | None:
    start = [s.beats.index("1") for s in scene.shapes]
    if start.count(min(start)) > 1:
        return None
    first, names = scene.shapes[int(np.argmin(start))], [s.name for s in scene.shapes]
    letters, rows = (
        lettered(names, rng),
        [look(s, f"from {n + 1}") for s, n in zip(scene.shapes, start, strict=True)],
    )
    return Question(
        "first_mover",
        "Which shape moves first?",
        "multiple choice",
        letters[first.name],
        options(letters),
        rows,
        (rows[:1], names[0]),
        [n for n in names if n != first.name],
        names,
        "Watch every shape, then compare their first moves.",
        first.name,
    )


def ask_count_together(scene: Scene, rng: np.random.Generator) -> Question:
    tone = scene.tones[rng.integers(len(scene.tones))]
    others = [s for s in scene.shapes if s.place != tone.source]
    shape = scene.at(tone.source) if rng.random() < 0.25 else others[rng.integers(len(others))]
    beats = both(shape.beats, tone.beats)
    n, seen = beats.count("1"), shape.beats.count("1")
    return Question(
        "count_together",
        f"How many times does the {shape.name} {shape.act} while the {tone.pitch} tone sounds?",
        "numeric",
        str(n),
        [],
        [*find(scene, shape), listen(tone), f"together {beats}.", f"sum {n}."],
        ([*find(scene, shape), f"sum {seen}."], str(seen)),
        near(n),
        list("0123"),
        f"Watch the {shape.name}, listen for the {tone.pitch} tone, line them up beat by beat, then add up.",
    )


def compare(shape: Shape, tones: list[Tone]) -> str:
    """A line of a plan: on which beats a shape differs from each of the tones, and whether it never differs from one.

    >>> compare(Shape("left", "red", "square", "hop", "0101"), [Tone("low", "1001", "right"), Tone("high", "0101", "left")])
    'look: red square left 0101 differs 1100 0000 yes.'
    """
    differ = [
        "".join("1" if x != y else "0" for x, y in zip(shape.beats, t.beats, strict=True))
        for t in tones
    ]
    return look(shape, f"differs {' '.join(differ)} {'yes' if '0000' in differ else 'no'}")


def search(scene: Scene, tone: Tone) -> list[str]:
    """The careful plan for one tone: listen, then look at one shape after the other, from left to right, until one never differs from it."""
    until = [s.place for s in scene.shapes].index(tone.source)
    return [listen(tone)] + [compare(s, [tone]) for s in scene.shapes[: until + 1]]


def ask_which_sounds(scene: Scene, rng: np.random.Generator) -> Question:
    tone = scene.tones[rng.integers(len(scene.tones))]
    source, names = scene.at(tone.source), [s.name for s in scene.shapes]
    letters, glanced = lettered(names, rng), scene.shapes[rng.integers(len(scene.shapes))]
    return Question(
        "which_sounds",
        f"Which shape moves in step with the {tone.pitch} tone?",
        "multiple choice",
        letters[source.name],
        options(letters),
        search(scene, tone),
        ([look(glanced, "yes")], glanced.name),
        [n for n in names if n != source.name],
        names,
        f"Listen for the {tone.pitch} tone, then watch one shape after the other and line them up beat by beat.",
        source.name,
    )


def ask_colour_sounds(scene: Scene, rng: np.random.Generator) -> Question:
    tone = scene.tones[rng.integers(len(scene.tones))]
    source, glanced = scene.at(tone.source), scene.shapes[rng.integers(len(scene.shapes))]
    return Question(
        "colour_sounds",
        f"What colour is the shape that moves in step with the {tone.pitch} tone?",
        "free-form",
        source.colour,
        [],
        search(scene, tone),
        ([look(glanced, "yes")], glanced.colour),
        [s.colour for s in scene.shapes if s.place != tone.source],
        list(COLOURS),
        f"Listen for the {tone.pitch} tone, then watch one shape after the other and line them up beat by beat.",
    )


def locate(shapes: list[Shape]) -> str:
    """The localisation answer: places from left to right, e.g. 'left: red square | right: blue disc'."""
    return " | ".join(f"{s.place}: {s.name}" for s in shapes)


def ask_locate(scene: Scene, rng: np.random.Generator) -> Question:
    sounding = {t.source for t in scene.tones}
    sources = [s for s in scene.shapes if s.place in sounding]
    sets = [scene.shapes, *([s] for s in scene.shapes), scene.shapes[:2], scene.shapes[-2:]]
    answers = sorted({locate(s) for s in sets})
    return Question(
        "locate",
        "Which shapes make a sound, and where are they?",
        "localisation",
        locate(sources),
        [],
        [listen(t) for t in scene.tones] + [compare(s, scene.tones) for s in scene.shapes],
        ([look(s) for s in scene.shapes], locate(scene.shapes)),
        [a for a in answers if a != locate(sources)],
        answers,
        "Listen for every tone, watch every shape, line them up beat by beat, then say where the sources are.",
    )


def ask_describe(scene: Scene, rng: np.random.Generator) -> Question:
    """Stage 0 only: a dense caption, which is how a pretrained model would have learned to see and hear."""
    rows = [look(s) for s in scene.shapes] + [listen(t) for t in scene.tones]
    answer = locate(scene.shapes)
    return Question(
        "describe",
        "What moves and what sounds, beat by beat?",
        "localisation",
        answer,
        [],
        rows,
        (rows, answer),
        [],
        [],
        "",
    )


def lettered(names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Shuffle the names and give them letters: {'red square': 'B', 'blue disc': 'A'}."""
    return {str(n): LETTERS[i] for i, n in enumerate(rng.permutation(names))}


def options(letters: dict[str, str]) -> list[str]:
    return [f"{letter}. {name}" for name, letter in letters.items()]


QUESTIONS = {
    1: (ask_count_moves, ask_first_mover),
    2: (ask_count_together, ask_which_sounds, ask_colour_sounds),
    3: (ask_locate,),
}


def write_trace(q: Question, plan: str, rng: np.random.Generator) -> str:
    """The `<think>...</think><answer>...</answer>` text of one solver who follows `plan` (a key of PLAN_SHARES)."""
    lines, answer = q.careful, q.said or q.answer
    if plan == "guess":
        lines, answer = ["guess."], str(rng.choice(q.guesses))
    elif plan == "one-sense":
        lines, answer = q.one_sense
    elif plan == "slip":
        answer = str(rng.choice(q.slips))
        if q.careful[-1].startswith("sum "):
            lines = [*q.careful[:-1], f"sum {answer}."]
    return f"<think>{' '.join(lines)}</think><answer>{answer}</answer>"


def make_records(
    scene: Scene, clip: str, stage: int, rng: np.random.Generator, per_clip: int
) -> list[Sample]:
    """The records of one clip. Stages 1-3 ask `per_clip` questions of their own kinds; stage 0 asks for a description and `per_clip`
    questions of any kind, and adds traces."""
    if stage == 0:
        kinds = [ask for asks in QUESTIONS.values() for ask in asks]
        asked = [ask_describe] + [kinds[i] for _ in range(4) for i in rng.permutation(len(kinds))]
        per_clip += 1
    else:
        kinds, first = QUESTIONS[stage], int(rng.integers(6))
        asked = [
            kinds[(first + i) % len(kinds)] for i in range(4 * per_clip)
        ]  # more than needed: a kind may not fit the scene
    caption = " and ".join(
        f"a {t.pitch} tone that sounds {'once' if t.beats.count('1') == 1 else 'several times'}"
        for t in scene.tones
    )
    records: list[Sample] = []
    for ask in asked:
        q = ask(scene, rng)
        if q is None or any(q.text == r.question for r in records) or len(records) == per_clip:
            continue
        record = Sample(
            f"{clip}-{len(records)}",
            q.text,
            q.problem_type,
            q.answer,
            videos=[f"clips/{clip}.mp4"],
            options=q.options,
            hint=q.hint,
            audio_caption=f"{caption[0].upper()}{caption[1:]}.",
            stage=stage,
            kind=q.kind,
            scene=asdict(scene),
        )
        if stage == 0:
            hinted = bool(q.hint) and rng.random() < HINTED
            careful = not q.hint or (hinted and rng.random() < HINTED_CAREFUL)
            record.plan = (
                "careful"
                if careful
                else str(rng.choice(list(PLAN_SHARES), p=list(PLAN_SHARES.values())))
            )
            record.hint, record.trace = q.hint if hinted else "", write_trace(q, record.plan, rng)
        records.append(record)
    return records


def build(
    root: str | Path, stage: int, split: str, clips: int, seed: int = 0, progress: bool = True
) -> Path:
    """Render `clips` clips of `split` ("train" or "heldout") for `stage` under `root`, once, and write their records.

    The two splits draw from different random streams and share no scene. What is already on disk is kept. Returns the JSONL's path.
    """
    folder = Path(root) / f"v{VERSION}-seed{seed}"
    per_clip = 7 if stage == 0 and split == "train" else 2
    (folder / "clips").mkdir(parents=True, exist_ok=True)

    def one(i: int) -> list[Sample]:
        stream = [
            VERSION,
            seed,
            stage,
            int(split == "heldout"),
            i,
        ]  # one independent stream per clip: any subset is reproducible
        rng = np.random.default_rng(stream)
        scene, clip = make_scene(rng), f"stage{stage}-{split}-{i:05d}"
        path = folder / "clips" / f"{clip}.mp4"
        if not path.exists():
            write_clip(path, scene, np.random.default_rng([*stream, 1]))
        return make_records(scene, clip, stage, rng, per_clip)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the encoders release the GIL
        made = tqdm(
            pool.map(one, range(clips)),
            total=clips,
            desc=f"rendering stage {stage} {split} clips",
            disable=not progress,
            leave=False,
        )
        records = [record for some in made for record in some]
    table = folder / f"stage{stage}_{split}_{clips}x{per_clip}.jsonl"
    save_samples(table, records)
    return table


def oracle_judge(completion_think: str, answer: str, scene: dict) -> dict[str, float]:
    """Stage 3's judge on the toy: an ORACLE that reads the scene's truth, in place of the paper's frozen vision-language model.

    Scores the paper's four criteria, each in [0, 1]: audio-cue grounding (share of the tones whose beats the reasoning states
    rightly), visual-object identification (share of the named shapes that are in the scene, and of the scene's that are named),
    location accuracy (share of the answered places that hold the named sounding shape, and of the sources found), caption
    correctness (the answer names exactly the sources).
    """
    shapes, tones = [Shape(**s) for s in scene["shapes"]], [Tone(**t) for t in scene["tones"]]
    sources = {t.source for t in tones}
    gold = {(s.place, s.name) for s in shapes if s.place in sources}
    said = {
        tuple(part.strip() for part in item.split(":", 1))
        for item in answer.split("|")
        if ":" in item
    }
    named = {name for _, name in said} | {
        f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" in completion_think
    }
    present = {s.name for s in shapes}
    audio = sum(f"{t.pitch} tone {t.beats}" in completion_think for t in tones) / len(tones)
    return {
        "audio": audio,
        "visual": f1(named, present),
        "location": f1(said, gold),
        "caption": float(said == gold),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="toy_world", help="folder to render into")
    parser.add_argument("--stage", type=int, default=2, choices=range(4))
    parser.add_argument("--split", default="train", choices=("train", "heldout"))
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    jsonl = build(args.out, args.stage, args.split, args.clips, seed=args.seed)
    print(
        f"wrote {jsonl}; its first record:\n{json.dumps(json.loads(jsonl.read_text().splitlines()[0]), indent=1)}"
    )
