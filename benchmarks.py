"""benchmarks.py: what each benchmark's files say, how it is asked, and how it is scored. eval.py runs them.

A benchmark is one entry of BENCHMARKS: a function that reads its files as they are downloaded into Items, the labels whose splits are reported, and where it
differs from the defaults (multiple choice, accuracy over all items) its score and its metrics. Adding one:

    def read_mine(root, scratch):                                   # root: --root; scratch: a folder for media that files hold inside
        for i, row in enumerate(rows(root / "mine.jsonl")):
            yield item(f"mine-{i}", row["question"], row["answer"], lettered(row["options"]), videos=[root / "clips" / row["clip"]],
                       labels={"topic": row["topic"]})

    BENCHMARKS["mine"] = Benchmark("Mine", "huggingface.co/datasets/me/mine: mine.jsonl, clips/", read_mine, splits=("topic",))

Scoring follows each benchmark's own authors. Where their scripts slip, the rule meant is kept and the slip is not: a reply from which no answer can be read
is wrong (scripts drop it, guess, or take "A"), a letter is not seen in the middle of a word, and gold answers are never read by the parser of replies.
The wordings of --prompt paper are those of the released AVATAR evaluation, and of the benchmark's authors where it has none (Video-MMMU, VSI-Bench, Video-TT).
"""

import ast
import hashlib
import itertools
import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import toy
from data import INSTRUCTION, TYPE_INSTRUCTION
from records import DataError, Sample, check_placeholders, load_samples, read_records, write_whole
from replies import bodies_of, choice_in, letters_in, number_in, texts_in, unmarked, yes_or_no
from rewards import accuracy_reward, f1, final_answer, labels_of, yes_no
from scoring import cluster_score, mean_relative_accuracy, open_match, said_clusters

STYLES = ("think", "direct", "paper")
DIRECT = {
    "multiple choice": "Answer with the option's letter only.",
    "multi-label": "Answer with the letters of all options that apply, joined by commas.",
    "numeric": "Answer with a number only.",
    "counting": "Answer with a number only.",
    "free-form": "Answer with a word or a short phrase only.",
    "yes/no": "Answer yes or no only.",
    "code": "Answer with the JSON only.",
    "localisation": "Answer with place: shape, joined by |, only.",
}
QWEN = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and visual inputs, as well as generating "
    "text and speech."
)
RELEASED = (
    "Your task is to accurately answer multiple-choice questions based on the given video. Select the single most accurate answer from the given "
    "choices.\nQuestion: {question}\n{options}\nYour answer should be a capital letter representing your choice. Don't generate any other text."
)


# ---------------------------------------------------------------------------------------------- one item, one benchmark
@dataclass
class Item:
    """One question of a benchmark. sample: its text, options ("A. red"), gold answer (`answer`) and media; labels: what its splits are told apart by, a
    text or several; video: what the bootstrap draws as one; truth: whatever else its score needs; paper: fields of the paper's wording; broken: why it
    cannot be scored whatever the model says, and is left out."""

    sample: Sample
    labels: dict[str, str | list[str]]
    video: str
    truth: object = None
    paper: dict[str, str] = field(default_factory=dict)
    broken: str = ""


@dataclass(frozen=True)
class Metric:
    """The mean of a part of the scores over the items that have it; over: labels, outermost first, whose values weigh alike (a mean of means); root: the
    square root of it. percent: shown times 100. higher: more is better."""

    name: str
    part: str = "score"
    over: tuple[str, ...] = ()
    root: bool = False
    percent: bool = True
    higher: bool = True


def by_type(one: Item, answer: str | None, several: str) -> dict[str, float | None]:
    """{"score"} by problem type: the letter chosen; letters as sets by F1; yes or no; an open answer is the judge's. answer None: the item was not asked."""
    sample, answer = one.sample, answer or ""
    if sample.problem_type == "multiple choice":
        return {"score": float(choice_in(answer, sample.options, several) == sample.answer)}
    if sample.problem_type == "free-form":
        return {"score": None}
    if sample.problem_type == "multi-label":
        return {
            "score": f1(labels_in(answer, sample.options), labels_of(sample.answer, sample.options))
        }
    if sample.problem_type == "yes/no":
        return {"score": float(yes_or_no(answer) == yes_no(sample.answer))}
    return {
        "score": accuracy_reward(answer or None, sample.answer, sample.problem_type, sample.options)
    }


def labels_in(text: str, options: list[str]) -> frozenset[str]:
    """The letters that a free reply names: the labels that it lists; where one of them is no letter, those of `letters_in`, else the options whose text occurs.

    >>> options = ["A. calm", "B. sad", "C. glad"]
    >>> sorted(labels_in("b, Glad", options)), sorted(labels_in("A, B, and C.", options)), sorted(labels_in("A man; joy", options))
    (['B', 'C'], ['A', 'B', 'C'], ['a man', 'joy'])
    >>> sorted(labels_in("B,C\\n\\nA is wrong.", options)), sorted(labels_in("He is glad and calm.", options))
    (['B', 'C'], ['A', 'C'])
    """
    said = labels_of(text, options)
    if all(len(label) == 1 for label in said):
        return said
    return (
        letters_in(text, options) or frozenset(texts_in(unmarked(text), bodies_of(options))) or said
    )


@dataclass(frozen=True)
class Benchmark:
    """title; files: where they come from; read(root, scratch): its Items; splits: labels that are reported; size: the number of items as published,
    0: not known. sound: videos are heard.

    rule: how it is scored, in words. several: which of several letters in a reply counts. score(item, answer, several): {part: number, or None where a
    judge has to say}; answer None: the item was not asked. metrics: the first one is the headline. judge: (what a judge is asked, its reply as 0, 1 or None).
    paper, system: the wording of --prompt paper, by problem type or for all; tokens: its longest reply."""

    title: str
    files: str
    read: Callable[[Path, Path], Iterable[Item]]
    splits: tuple[str, ...] = ()
    size: int = 0
    sound: bool = True
    rule: str = "letter"
    several: str = "last"
    score: Callable[[Item, str | None, str], dict[str, float | None]] = by_type
    metrics: tuple[Metric, ...] = (Metric("accuracy"),)
    judge: tuple[Callable[[Item, str], str], Callable[[str], float | None]] | None = None
    paper: str | dict[str, str] = RELEASED
    system: str = ""
    tokens: int = 512

    @property
    def scoring(self) -> str:
        """The rule in full."""
        return self.rule + ("; of several letters the first" if self.several == "first" else "")


def item(
    name: str,
    question: str,
    answer: str,
    options: list[str] = (),
    kind: str = "multiple choice",
    labels: dict | None = None,
    video: str = "",
    truth: object = None,
    paper: dict | None = None,
    **media,
) -> Item:
    """An Item; media: videos, images, audios (paths), span, frame_rate. video: the name of its cluster; empty: its first medium."""
    for k in ("videos", "images", "audios"):
        media[k] = [str(p) for p in media.get(k, ())]
    sample, broken = (
        Sample(str(name), question, kind, str(answer), options=list(options), **media),
        "",
    )
    wanted = {
        "multiple choice": {sample.answer},
        "multi-label": labels_of(sample.answer, sample.options),
    }.get(kind, set())
    if not sample.answer.strip():
        broken = "it has no gold answer"
    elif not wanted <= {o[0] for o in options}:
        broken = f"its answer {answer!r} is none of its {len(options)} options"
    elif kind == "yes/no" and yes_no(sample.answer) is None:
        broken = f"its answer {answer!r} is neither yes nor no"
    try:
        check_placeholders(sample)
    except DataError as error:
        broken = str(error)
    first = next(iter([*sample.videos, *sample.images, *sample.audios]), str(name))
    labels = {
        k: [str(x) for x in v] if isinstance(v, list) else "none" if v in (None, "") else str(v)
        for k, v in (labels or {}).items()
    }
    return Item(sample, labels, video or first, truth, paper or {}, broken)


def ask(one: Item, benchmark: Benchmark, style: str) -> Sample:
    """The sample that is shown to the model, by --prompt.

    think: reasoning, then <answer>, as in training. direct: no reasoning asked for. paper: the released evaluation's wording."""
    sample = Sample(**vars(one.sample))
    kind = sample.problem_type
    if style == "think":
        sample.instruction = (
            f"{INSTRUCTION} {TYPE_INSTRUCTION[kind] if kind != 'code' else 'Answer with the JSON.'}"
        )
    elif style == "direct":
        sample.instruction = DIRECT[kind]
    else:
        wording = (
            benchmark.paper
            if isinstance(benchmark.paper, str)
            else benchmark.paper[one.paper.get("wording", kind)]
        )
        fields = {
            "question": sample.question,
            "options": "\n".join(sample.options),
            "list": repr(sample.options),
            "round": "\n".join(f"({o[0]}) {o[3:]}" for o in sample.options),
        } | one.paper
        wording = re.sub(
            r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), wording
        )  # not str.format: wordings hold braces of JSON
        sample.question, sample.options, sample.instruction, sample.system = (
            wording,
            [],
            "",
            benchmark.system,
        )
    return sample


def read_answer(one: Item, completion: str, several: str) -> str:
    """What a completion answers: the letter, the number, or the text; "" when there is none."""
    said = final_answer(completion)
    if one.sample.problem_type == "multiple choice":
        return choice_in(said, one.sample.options, several) or ""
    if one.sample.problem_type in ("counting", "numeric"):
        value = number_in(said)
        return "" if value is None else f"{value:.15g}"
    if one.sample.problem_type == "yes/no":
        return yes_or_no(said) or ""
    if one.sample.problem_type == "code" and said_clusters(one.truth[0], said) is None:
        return ""
    return said


# ---------------------------------------------------------------------------------------------- files
def rows(path: Path) -> Iterable[dict]:
    """The records of a .parquet (one after the other: media inside them fill gigabytes), .jsonl or .json file; a JSON object of equally long lists is read
    as columns, one of objects as its values."""
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; pass the benchmark's own folder, as downloaded, by --root"
        )
    if path.suffix == ".parquet":
        import pyarrow.parquet  # imported here: only some benchmarks need it

        try:
            return (
                row
                for batch in pyarrow.parquet.ParquetFile(path).iter_batches(64)
                for row in batch.to_pylist()
            )
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: not a parquet file ({error}); download it again") from None
    if path.suffix == ".json":
        whole = parsed(path)
        if (
            isinstance(whole, dict)
            and whole
            and all(isinstance(v, list) for v in whole.values())
            and len({len(v) for v in whole.values()}) == 1
        ):
            return [
                dict(zip(whole, values, strict=True))
                for values in zip(*whole.values(), strict=True)
            ]
        return list(whole.values()) if isinstance(whole, dict) else whole
    found = [record for _, record in read_records(path)]
    if bad := [record for record in found if isinstance(record, DataError)]:
        raise bad[0]
    return found


def parsed(path: Path):
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error}); download it again") from None


def first_file(root: Path, *names: str) -> Path:
    """The first of these that is there, or that a pattern finds; DataError names all of them."""
    for name in names:
        if found := sorted(root.glob(name)):
            return found[0]
    raise DataError(
        f"{root}: none of {', '.join(names)} is there; download the benchmark into that folder, or pass another one by --root"
    )


def locate(root: Path, *names: str) -> str:
    """The first of these paths under root that exists, or the first one, so that the error about it names it."""
    return str(next((p for name in names if (p := root / name).exists()), root / names[0]))


def clip(root: Path, stem: str, *folders: str) -> str:
    """A video by its name without suffix, in one of these folders."""
    return locate(
        root,
        *[
            f"{folder}/{stem}{suffix}"
            for folder in folders
            for suffix in (".mp4", ".MP4", ".mkv", ".webm", ".avi")
        ],
    )


def lettered(options: Iterable[str]) -> list[str]:
    """Options as "A. red"; those that have their letters already, as "A. red", "A.red" or "(A) red", lose them first.

    >>> lettered(["red", "blue"]), lettered(["A.red", "B. blue"]), lettered(["(A) red", "(B) blue"])
    (['A. red', 'B. blue'], ['A. red', 'B. blue'], ['A. red', 'B. blue'])
    """
    options = [str(o).strip() for o in options]
    marked = [
        re.match(rf"\(?{letter}[.):]\s*(?=\S)", o)
        for letter, o in zip(string.ascii_uppercase, options, strict=False)
    ]
    if options and all(marked):
        options = [o[m.end() :] for o, m in zip(options, marked, strict=True)]
    return [f"{letter}. {o}" for letter, o in zip(string.ascii_uppercase, options, strict=False)]


def letter_for(text: str, options: list[str]) -> str:
    """The letter of the first option whose text is the gold answer, or else is it with white space folded; the text itself where none is."""
    same = [
        [str(o) == str(text) for o in options],
        [str(o).split() == str(text).split() for o in options],
    ]
    return next(
        (string.ascii_uppercase[hits.index(True)] for hits in same if True in hits), str(text)
    )


def kept(scratch: Path, suffix: str, value) -> str:
    """A medium that a row holds inside ({bytes, path} or bytes) as a file of the scratch folder, named by its content and written once."""
    inside = value["bytes"] if isinstance(value, dict) else value
    file = scratch / (hashlib.sha256(inside).hexdigest()[:32] + suffix)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, inside)
    return str(file)


# ---------------------------------------------------------------------------------------------- sound and picture
def read_omnibench(root: Path, scratch: Path) -> Iterator[Item]:
    """Gold is the option's text. A picture and a sound per question, which the hub's parquet files hold inside."""
    path = first_file(
        root,
        "dataset/batch-5_1142_20240817.jsonl",
        "batch-5_1142_20240817.jsonl",
        "*.jsonl",
        "data/*.parquet",
    )
    for row in itertools.chain.from_iterable(
        map(rows, sorted(path.parent.glob("*.parquet")) if path.suffix == ".parquet" else [path])
    ):
        name = f"omnibench-{row['index']}"
        inside = {
            kind: [kept(scratch, Path(row[f"{kind}_path"]).suffix, row[kind])]
            for kind in ("image", "audio")
            if row.get(kind)
        }
        yield item(
            name,
            row["question"],
            letter_for(row["answer"], row["options"]),
            lettered(row["options"]),
            images=inside.get("image")
            or [locate(root, f"mm_data/image/{row['image_path']}", f"image/{row['image_path']}")],
            audios=inside.get("audio")
            or [locate(root, f"mm_data/audio/{row['audio_path']}", f"audio/{row['audio_path']}")],
            video=Path(row["image_path"]).name,
            labels={
                "task type": row["task type"].strip(),
                "audio type": row["audio type"].strip().lower(),
            },
        )


def read_dailyomni(root: Path, scratch: Path) -> Iterator[Item]:
    for i, row in enumerate(rows(first_file(root, "qa.json"))):
        stem = row["video_id"]
        yield item(
            f"dailyomni-{i}",
            row["Question"],
            row["Answer"].strip()[:1],
            lettered(row["Choice"]),
            video=stem,
            videos=[locate(root, f"Videos/{stem}/{stem}_video.mp4", f"{stem}/{stem}_video.mp4")],
            paper={"list": repr(list(row["Choice"]))},
            labels={
                "Type": row["Type"],
                "video_duration": row["video_duration"],
                "video_category": row.get("video_category") or "none",
            },
        )


def read_avodyssey(root: Path, scratch: Path) -> Iterator[Item]:
    """Media stand at their tags [img1], [audio1], [video1], in the question and in the options; they are paths, or bytes inside parquet files."""
    kinds = {
        "img": ("image", "images", "png"),
        "audio": ("audio", "audios", "wav"),
        "video": ("video", "videos", "mp4"),
    }
    for path in sorted(root.glob("av_odyssey*.parquet")) or [
        first_file(root, "av_odyssey*.json*", "data/*.parquet", "*.parquet", "*.json*")
    ]:
        for row in rows(path):
            name, lists = f"avodyssey-{row['question_id']}", {}
            for tag, (kind, _, suffix) in kinds.items():
                if inside := [row[f"{kind}_{i}"] for i in range(1, 5) if row.get(f"{kind}_{i}")]:
                    lists[tag] = [kept(scratch, f".{suffix}", value) for value in inside]
                else:
                    lists[tag] = [
                        locate(root, p, f"{p.split('/')[0]}/{p}")
                        for p in row.get(f"{kind}_path") or []
                    ]
            if "image" in row["data_type"]:
                lists["video"] = []  # the clip that the pictures were taken from
            texts = [row["question"], *lettered(row["options"])]
            order = re.findall(r"\[(img|audio|video)(\d+)\]", "\n".join(texts))
            lost = [f"[{tag}{n}]" for tag, n in order if not 1 <= int(n) <= len(lists[tag])]
            order, media = [(tag, n) for tag, n in order if f"[{tag}{n}]" not in lost], {}
            for tag, (kind, field_name, _) in kinds.items():
                named = [int(n) - 1 for t, n in order if t == tag]
                media[field_name] = [
                    lists[tag][i] for i in range(len(lists[tag])) if i not in named
                ] + [lists[tag][i] for i in named]
                texts = [re.sub(rf"\[{tag}\d+\]", f"<{kind}>", text) for text in texts]
            one = item(
                name,
                texts[0],
                row["answer"].strip(),
                texts[1:],
                **media,
                video=name,
                labels={
                    "subfield": row["subfield"],
                    "question_type_id": str(row["question_type_id"]),
                },
            )
            one.broken = f"it has no file for {', '.join(lost)}" if lost else one.broken
            yield one


def read_worldsense(root: Path, scratch: Path) -> Iterator[Item]:
    path = first_file(root, "worldsense_qa.json", "data/*.parquet", "*.parquet")
    found = []
    if path.suffix == ".json":
        for stem, about in parsed(path).items():
            shared = {k: v for k, v in about.items() if not k.startswith("task")}
            found += [
                (f"{stem}_{task}", stem, shared | about[task])
                for task in about
                if re.fullmatch(r"task\d+", task)
            ]
    else:
        found = [(str(row["index"]), Path(row["video_path"]).stem, row) for row in rows(path)]
    for name, stem, row in found:
        yield item(
            f"worldsense-{name}",
            row["question"],
            row["answer"].strip(),
            lettered(row["candidates"]),
            video=stem,
            videos=[clip(root, stem, "videos", ".")],
            labels={
                "task_domain": row["task_domain"],
                "task_type": row["task_type"],
                "domain": row["domain"],
                "duration": row.get("duration") or "none",
                "audio_class": row.get("audio_class") or "none",
            },
        )


def read_intentbench(root: Path, scratch: Path) -> Iterator[Item]:
    """Gold is the <answer> of `solution`, which the authors score, or else `answer`."""
    types = {"multiple choice": "multiple choice", "emer_ov_mc": "multi-label", "judge": "yes/no"}
    for i, row in enumerate(rows(first_file(root, "qa.json", "IntentBench/qa.json"))):
        kind, name = row["problem_type"], row.get("qid") or row.get("Question id") or ""
        if kind not in types:
            raise DataError(
                f"{root}: item {i} of qa.json has the problem_type {kind!r}; known are {', '.join(types)}"
            )
        gold = re.search(r"<answer>\s*(.*?)\s*</answer>", row.get("solution") or "", re.DOTALL)
        options = (
            ast.literal_eval(row["options"])
            if isinstance(row.get("options"), str) and row["options"]
            else row.get("options") or []
        )
        said = re.search(r'"(.*?)"', row["problem"])
        video = row.get("video") or row.get("path")
        yield item(
            f"intentbench-{i}-{name}",
            row["problem"],
            gold[1] if gold else row["answer"].strip(),
            lettered(options),
            types[kind],
            videos=[
                locate(
                    root,
                    f"videos/{video}",
                    video,
                    f"IntentBench/videos/{video}",
                    f"IntentBench/{video}",
                )
            ],
            video=video,
            paper={"said": said[1] if said else "the question"},
            labels={"Type": row.get("Type") or "none", "problem_type": kind},
        )


# ---------------------------------------------------------------------------------------------- counting with clues
CLUE_EVENT = (
    "{opening} provide your answer to the question '{question}', including the start and end timestamps for each event. Format your answer in "
    'JSON, enclosed in <answer> and </answer> tags. The output should look like this: <answer>[["start_time", "end_time"], ...]</answer>. '
    "Ensure each timestamp is in seconds (e.g., xx.xx )."
)
CLUE_OBJECT = (
    "According to the given video frames, answer the question '{question}', including the bounding box for the query object in the first frame "
    "where it appears. For subsequent frames where the object appears, do not provide the bounding box again. Format your answer in JSON, "
    'enclosed within <answer> and </answer> tags. The output should look like this: <answer>{"Frame1": [[xmin, ymin, x_max, y_max]], '
    '"Frame2": []}</answer>.'
)
CLUE_ATTRIBUTE = (
    "According to the given video frames, answer the question '{question}', clustering the objects based on the question. For each unique "
    "cluster, assign a unique label and return the bounding box for each object in the first frame where it appears. Format your answer in "
    'JSON, enclosed within <answer> and </answer> tags. The output should look like this: <answer>{"Frame 1": [{"bbox": [x_min, y_min, '
    'x_max, y_max], \'label\': "Label 1"}], "Frame 2": [...] }</answer>.'
)
SCALE = "Boxes are on a scale of 0 to 100 in both directions."
CLUE_TASKS = {
    "event": 'Give the start and the end in seconds of each event that the question counts, as JSON: [["start", "end"], ...]',
    "object": (
        'Give the box of each object that the question counts, in the first frame where it appears and in no later one, as JSON: {"Frame1": '
        '[[x_min, y_min, x_max, y_max]], "Frame2": []}. ' + SCALE
    ),
    "attribute": (
        "Put the objects into the clusters that the question counts. Give each object's box and its cluster's label in the first frame where it "
        'appears, and in no later one, as JSON: {"Frame1": [{"bbox": [x_min, y_min, x_max, y_max], "label": "Label 1"}], "Frame2": '
        "[]}. " + SCALE
    ),
}


def read_cgav(root: Path, scratch: Path) -> Iterator[Item]:
    """Every question three times: on the whole video (long), on the clip that holds its answer (ref), and with its clues (clue).

    Boxes are asked on a scale of 0 to 100. No document of the authors says in what unit theirs are, so the boxes themselves do: above 100 are pixels of the
    video, up to 1 shares; both are brought to that scale."""
    found = list(rows(first_file(root, "cg-av-counting.json")))
    clues = [
        json.loads(row["clue"]) if isinstance(row["clue"], str) else row["clue"] for row in found
    ]
    truths = [gold_clusters(row["category"], clue) for row, clue in zip(found, clues, strict=True)]
    boxes = [
        box
        for row, (truth, _) in zip(found, truths, strict=True)
        if row["category"] != "event"
        for cluster in truth
        for _, box in cluster
    ]
    largest = max((x for box in boxes for x in box), default=100.0)
    for row, (truth, times) in zip(found, truths, strict=True):
        question, stem, category = (
            row.get("question") or row["question_en"],
            Path(row["video"]).stem,
            row["category"],
        )
        start, end = (float(t) for t in row["query_interval"])
        whole = locate(
            root, f"cg_videos_720p/{row['video']}", f"videos/{row['video']}", row["video"]
        )
        part = locate(
            root,
            f"ref_videos/{stem}_{start:.2f}_{end:.2f}.mp4",
            f"clips/{stem}_{start:.2f}_{end:.2f}.mp4",
        )
        labels = {"category": category, "type": row["type"]}
        gold = f"{float(row['answer']):.15g}"
        for setting, path in (("long", whole), ("ref", part)):
            yield item(
                f"cgav-{row['index']}-{setting}",
                question,
                gold,
                kind="counting",
                videos=[path],
                video=stem,
                labels={"setting": setting} | labels,
                paper={"wording": "count"},
            )
        if times and not 1 < largest <= 100:
            w, h = (1.0, 1.0) if largest <= 1 else frame_size(whole)
            truth = [
                [
                    (
                        frame,
                        tuple(100 * x / side for x, side in zip(box, (w, h, w, h), strict=True)),
                    )
                    for frame, box in cluster
                ]
                for cluster in truth
            ]
        frames = "".join(
            f"Frame{i}: <image>\n" for i in range(1, len(times) + 1)
        )  # of boxes only the frames of the clues are shown, by name
        media = {"images": [f"{whole}#t={t}" for t in times]} if times else {"videos": [whole]}
        yield item(
            f"cgav-{row['index']}-clue",
            f"{frames}{question}\n{CLUE_TASKS[category]}",
            gold,
            kind="code",
            video=stem,
            labels={"setting": "clue"} | labels,
            truth=(category, truth),
            paper={
                "wording": category,
                "question": question,
                "opening": "Watch the video and",
                "frames": frames,
            },
            **media,
        )


def frame_size(path: str) -> tuple[float, float]:
    """(width, height) of a video in pixels; (1, 1) where there is none to ask about."""
    import decord  # imported here: only boxes in pixels need it

    try:
        height, width, _ = decord.VideoReader(path, num_threads=1)[0].shape
    except (decord.DECORDError, RuntimeError, IndexError):
        return 1.0, 1.0  # the item fails on its media
    return float(width), float(height)


def gold_clusters(category: str, clue: list) -> tuple[list, list[float]]:
    """(clusters, times of the clue frames in the order of their first appearance). Of events the one cluster is a list of (start, end); of objects, and of each
    attribute's value, a list of (frame from 0, box)."""
    if category == "event":
        return [[(float(c["start"]), float(c["end"])) for c in clue]], []
    groups = clue if category == "attribute" else [clue]
    times = list(dict.fromkeys(float(c["timestamp"]) for group in groups for c in group))
    return [
        [(times.index(float(c["timestamp"])), tuple(float(x) for x in c["bbox"])) for c in group]
        for group in groups
    ], times


def count_score(one: Item, answer: str | None, several: str) -> dict[str, float | None]:
    """acc, oboa (off by at most one), error and its square; an error above max(2 gold, 100) counts as 2 gold, and so does an item that was not asked; a reply
    without a number counts as 0. Of clues: wcs and ifa."""
    if one.truth is not None:
        clusters = said_clusters(one.truth[0], answer or "")
        return {
            "wcs": 0.0 if clusters is None else cluster_score(one.truth[0], one.truth[1], clusters),
            "ifa": float(clusters is not None),
        }
    gold, setting = float(one.sample.answer), one.labels["setting"]
    error = math.inf if answer is None else abs((number_in(answer) or 0.0) - gold)
    capped = error if error <= max(2 * gold, 100) else 2 * gold
    return {
        f"{setting}_acc": float(error < 1e-5),
        f"{setting}_oboa": float(error <= 1),
        f"{setting}_error": capped,
        f"{setting}_squared": capped**2,
    }


# ---------------------------------------------------------------------------------------------- video
MVBENCH = {  # task: its folder under video/, whether its items have bounds in seconds
    "action_sequence": ("star/Charades_v1_480", True),
    "action_prediction": ("star/Charades_v1_480", True),
    "action_antonym": ("ssv2_video", False),
    "fine_grained_action": ("Moments_in_Time_Raw/videos", False),
    "unexpected_action": ("FunQA_test/test", False),
    "object_existence": ("clevrer/video_validation", False),
    "object_interaction": ("star/Charades_v1_480", True),
    "object_shuffle": ("perception/videos", False),
    "moving_direction": ("clevrer/video_validation", False),
    "action_localization": ("sta/sta_video", True),
    "scene_transition": ("scene_qa/video", False),
    "action_count": ("perception/videos", False),
    "moving_count": ("clevrer/video_validation", False),
    "moving_attribute": ("clevrer/video_validation", False),
    "state_change": ("perception/videos", False),
    "fine_grained_pose": ("nturgbd", False),
    "character_order": ("perception/videos", False),
    "egocentric_navigation": ("vlnqa", False),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", True),
    "counterfactual_inference": ("clevrer/video_validation", False),
}


def read_mvbench(root: Path, scratch: Path) -> Iterator[Item]:
    """A file per task. Only the bounds of a clip are shown, where its task has them. The frames of tvqa are folders at 3 frames per second."""
    first_file(root, "json/*.json")
    for task, (folder, bounded) in MVBENCH.items():
        path = root / "json" / f"{task}.json"
        for i, row in enumerate(rows(path) if path.is_file() else []):
            name, top = f"mvbench-{task}-{i}", folder.split("/")[0]
            places = (
                f"video/{folder}",
                f"video/{top}/{folder}",
                f"video/data0613/{folder}",
                f"video/data0613/data0613/{folder}",
            )
            video = locate(
                root,
                *[
                    f"{p}/{file}"
                    for p in places
                    for file in (row["video"], Path(row["video"]).with_suffix(".mp4"))
                ],
            )
            span = (
                (max(0.0, float(row["start"])), float(row["end"]))
                if bounded and row.get("end") is not None
                else None
            )
            if span and not span[0] < span[1]:  # a few bounds of the hub's files run backwards
                span = None
            yield item(
                name,
                row["question"],
                letter_for(row["answer"], row["candidates"]),
                lettered(row["candidates"]),
                videos=[video],
                labels={"task": task},
                span=span,
                frame_rate=3.0 if top == "tvqa" else 0.0,
            )


def read_videomme(root: Path, scratch: Path) -> Iterator[Item]:
    for row in rows(
        first_file(root, "videomme/test-*.parquet", "test-*.parquet", "videomme.json", "*.jsonl")
    ):
        yield item(
            f"videomme-{row['question_id']}",
            row["question"],
            row["answer"].strip(),
            lettered(row["options"]),
            video=row["videoID"],
            videos=[clip(root, row["videoID"], "data", "video", "videos", ".")],
            labels={
                "duration": row["duration"],
                "domain": row["domain"],
                "task_type": row["task_type"],
            },
        )


def read_lvbench(root: Path, scratch: Path) -> Iterator[Item]:
    """Options stand inside the question, as lines "(A) ..". A question may be of several types."""
    path = first_file(root, "video_info.meta.jsonl", "data/*.parquet", "*.parquet")
    found = []
    for row in rows(path):
        found += [row | qa for qa in row["qa"]] if "qa" in row else [row]
    for row in found:
        stem = row.get("key") or Path(row.get("video_path") or row["video"]).stem
        head, *choices = re.split(r"\n\s*(?=\([A-Z]\))", row["question"].strip())
        yield item(
            f"lvbench-{row['uid']}",
            head,
            row["answer"].strip(),
            lettered(choices),
            video=stem,
            videos=[clip(root, stem, "all_videos", "videos", ".")],
            labels={"question_type": list(row["question_type"]), "type": row.get("type") or "none"},
            paper={"options": "\n".join(choices)},
        )


def read_videoholmes(root: Path, scratch: Path) -> Iterator[Item]:
    path = first_file(root, "test_Video-Holmes.json", "Benchmark/test_Video-Holmes.json")
    for row in rows(path):
        stem = row["video ID"]
        yield item(
            f"videoholmes-{stem}-{row['Question ID']}",
            row["Question"],
            row["Answer"].strip(),
            [f"{k}. {v}" for k, v in row["Options"].items()],
            videos=[
                clip(
                    path.parent, stem, "videos_cropped", "videos", "videos/videos_cropped", "video"
                )
            ],
            video=stem,
            labels={"Question Type": row["Question Type"]},
        )


DISCIPLINES = {
    subject: discipline
    for discipline, subjects in {
        "Science": "Biology, Chemistry, Modern Physics, Astronomy, Geography, Materials Science, Neurobiology, Electromagnetism, Thermodynamics, Mechanics",
        "Engineering": "Civil Engineering, Electrical Engineering, Mechanical Engineering, Biomedical Engineering, Electronics and Communication, Computer Science",
        "Healthcare": "Clinical Medicine, Basic Medicine, Preventive Medicine, Pharmacy, Dentistry",
        "Humanities and Social Science": "Art, Literature, History, Law, Economics, Management",
    }.items()
    for subject in subjects.split(", ")
}


def read_mmvu(root: Path, scratch: Path) -> Iterator[Item]:
    """Two kinds of questions: with five options, and open-ended."""
    for row in rows(
        first_file(
            root, "validation.json", "data/validation.json", "data/validation*.parquet", "*.parquet"
        )
    ):
        video = row.get("video_path") or row["video"].split("/resolve/main/")[-1]
        chosen = row["question_type"] == "multiple-choice"
        options = (
            [f"{k}. {v}" for k, v in row["choices"].items() if v not in ("", None)]
            if chosen
            else []
        )
        subject = Path(video).parent.name.replace("_", " ")
        yield item(
            f"mmvu-{row['id']}",
            row["question"],
            row["answer"].strip(),
            options,
            "multiple choice" if chosen else "free-form",
            videos=[locate(root, video, f"videos/{video}")],
            labels={
                "question_type": row["question_type"],
                "subject": subject,
                "discipline": DISCIPLINES.get(subject, "other"),
            },
        )


def read_tomato(root: Path, scratch: Path) -> Iterator[Item]:
    """A file per reasoning type, each an object by id; gold is the option's place, from 0. The hub's parquet holds the same in rows."""
    found = []
    for path in sorted(
        [*root.glob("data/*.json"), *root.glob("jsons/*.json"), *root.glob("*.json")]
    ):
        found += [
            (f"{path.stem}-{key}", path.stem, row, f"{row['demonstration_type']}/{row['key']}")
            for key, row in json.loads(path.read_text(encoding="utf-8")).items()
        ]
    if not found:
        found = [
            (
                str(row["id"]),
                row["reason_type"],
                row,
                Path(row["video_path"]).with_suffix("").as_posix(),
            )
            for row in rows(first_file(root, "data/*.parquet", "*.parquet", "data/*.json"))
        ]
    for name, kind, row, stem in found:
        yield item(
            f"tomato-{name}",
            row["question"],
            string.ascii_uppercase[int(row["answer"])],
            lettered(row["options"]),
            video=stem,
            videos=[clip(root, stem, "videos", ".")],
            labels={"reasoning type": kind, "demonstration type": row["demonstration_type"]},
        )


def read_videommmu(root: Path, scratch: Path) -> Iterator[Item]:
    """Three tracks. An Adaptation question has its picture inside the parquet file; it stands behind the video."""
    domains = ("Art", "Business", "Engineering", "Humanities", "Medicine", "Science")
    first_file(root, "*/test-*.parquet")
    for track in ("Perception", "Comprehension", "Adaptation"):
        for row in [
            row for path in sorted(root.glob(f"{track}/test-*.parquet")) for row in rows(path)
        ]:
            stem, chosen, picture = (
                row["id"],
                row["question_type"] == "multiple-choice",
                row.get("image"),
            )
            options, question = (
                lettered(row["options"]) if chosen else [],
                row["question"].replace("<image 1>", "<image>" if picture else "the picture"),
            )
            images = (
                [kept(scratch, ".png", picture)] * max(1, question.count("<image>"))
                if picture
                else []
            )
            yield item(
                f"videommmu-{track}-{stem}",
                question,
                row["answer"].strip(),
                options,
                "multiple choice" if chosen else "free-form",
                videos=[clip(root, stem, *domains, *[f"videos/{d}" for d in domains], "videos")],
                images=images,
                video=stem,
                labels={"track": track, "subject": " ".join(stem.split("_")[1:-1])},
                paper={"wording": track if chosen or track != "Adaptation" else "open"},
            )


def mmmu_score(one: Item, answer: str, several: str) -> dict[str, float | None]:
    if one.sample.problem_type == "multiple choice":
        return by_type(one, answer, several)
    return {"score": open_match(answer or "", one.sample.answer)}


VSI_CHOICE = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)


def read_vsi(root: Path, scratch: Path) -> Iterator[Item]:
    """One file; or the two halves test_debiased.parquet and test_pruned.parquet, which make up the whole."""
    whole = first_file(root, "test.jsonl", "test-*.parquet", "test_*.parquet")
    for row in [
        row
        for path in (sorted(root.glob("test_*.parquet")) if "test_" in whole.name else [whole])
        for row in rows(path)
    ]:
        kind, stem = (
            row["question_type"],
            f"{row['dataset']}/{row['scene_name'].removesuffix('.mp4')}",
        )
        chosen = kind in VSI_CHOICE
        yield item(
            f"vsi-{row['id']}",
            row["question"],
            str(row["ground_truth"]).strip(),
            lettered(row["options"]) if chosen else [],
            "multiple choice" if chosen else "numeric",
            videos=[clip(root, stem, ".", "video", "videos")],
            video=stem,
            labels={
                "task": re.sub("_(easy|medium|hard)$", "", kind),
                "question_type": kind,
                "dataset": row["dataset"],
            },
        )


def vsi_score(one: Item, answer: str, several: str) -> dict[str, float | None]:
    if one.sample.problem_type == "multiple choice":
        return by_type(one, answer, several)
    said = number_in(answer or "")
    return {
        "score": 0.0 if said is None else mean_relative_accuracy(said, float(one.sample.answer))
    }


def read_videott(root: Path, scratch: Path) -> Iterator[Item]:
    """Multiple choice (the split `test`), and where their files are there open-ended questions in four wordings. Options stand inside the question."""
    seen: set[str] = set()
    first_file(root, "data/*.parquet", "*.parquet")
    for row in [
        row
        for path in sorted([*root.glob("data/*.parquet"), *root.glob("*.parquet")])
        for row in rows(path)
    ]:
        name = str(row.get("qid") or f"{row['video_id']}-{row['question']}")
        if name in seen:  # `test_all` repeats the other splits
            continue
        seen.add(name)
        chosen = row["question_type"].startswith("Multiple-choice")
        head, *choices = (
            re.split(r"\n\s*(?=\(?[A-Z][.)])", row["question"].strip())
            if chosen
            else [row["question"].strip()]
        )
        yield item(
            f"videott-{name}",
            head,
            row["answer"].strip()[:1] if chosen else row["answer"].strip(),
            lettered(choices),
            "multiple choice" if chosen else "free-form",
            video=row["video_id"],
            paper={"prompt": row.get("question_prompt") or ""},
            videos=[
                clip(
                    root,
                    row["video_id"],
                    "Benchmark-AllVideos-LQ",
                    "Benchmark-AllVideos-HQ-encoded",
                    "video",
                    "videos",
                    ".",
                )
            ],
            labels={"question_type": row["question_type"], "capability": row["capability"]},
        )


def read_toy(root: Path, scratch: Path) -> Iterator[Item]:
    """The held-out questions of the embedded world's stage 2, rendered into root."""
    for sample in load_samples(toy.build(root, 2, "heldout", 160), stage=2):
        yield Item(sample, {"kind": sample.kind}, sample.videos[0])


def toy_score(one: Item, answer: str, several: str) -> dict[str, float | None]:
    """Right by the training's accuracy reward."""
    return {
        "score": float(
            accuracy_reward(
                answer or None, one.sample.answer, one.sample.problem_type, one.sample.options
            )
            >= 1 - 1e-6
        )
    }


# ---------------------------------------------------------------------------------------------- open answers
def mmvu_question(one: Item, answer: str) -> str:
    """The authors' instruction to their judge, with the item."""
    return (
        "Evaluate whether the model's final answer is correct by comparing it to the ground-truth answer provided for the given question.\n\nYou should "
        "first extract the final answer from the model's response, and then compare the extracted answer with the ground-truth answer to determine its "
        "accuracy.\nThe final answer generated by the model does not need to match the ground-truth answer word-for-word. However, it should only be "
        "considered correct if it demonstrates the exact same technique or concept explicitly and unambiguously equivalent to the ground-truth "
        "answer.\nOutput your response in the following structured format:\n{\n"
        '    "extracted_answer": // str value, the short final answer extracted from the model\'s response, do not hallucinate one that is not present '
        'in the response\n    "correct": // boolean value, True if the answer is correct, False otherwise\n}\n\n'
        f"Question: {one.sample.question}\n\nGround Truth Answer: {one.sample.answer}\n\nModel Response to the Question: {answer}"
    )


def mmvu_verdict(reply: str) -> float | None:
    """The last "correct" of a reply's JSON; None when it has none."""
    found = re.findall(r"['\"]correct['\"]\s*:\s*(true|false)\b", reply, re.IGNORECASE)
    return float(found[-1].lower() == "true") if found else None


def videott_question(one: Item, answer: str) -> str:
    """The authors' instruction to their judge, with the item."""
    return (
        "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer pairs. Your task is to "
        "compare the predicted answer with the correct answer and determine if they match meaningfully. Here's how you can accomplish the "
        "task:------##INSTRUCTIONS: - Focus on the meaningful match between the predicted answer and the correct answer.\n- Consider synonyms or "
        "paraphrases as valid matches.\n- Evaluate the correctness of the prediction compared to the answer.Please evaluate the following video-based "
        "question-answer pair:\n\n"
        f"Question: {one.sample.question}\nCorrect Answer: {one.sample.answer}\nPredicted Answer: {answer}\n\n"
        "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 indicating the highest meaningful "
        "match. Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', where value of 'pred' is  a string "
        "of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python "
        "dictionary string. For example, your response should look like this: {'pred': 'yes', 'score': 4.8}."
    )


def videott_verdict(reply: str) -> float | None:
    """1 for a score of 3 or more of 5; None when the reply holds none."""
    found = re.search(r"['\"]score['\"]\s*:\s*['\"]?([0-5](?:\.\d+)?)\b", reply)
    return float(float(found[1]) >= 3) if found else None


# ---------------------------------------------------------------------------------------------- the table
FRAMES = "These are frames of a video.\n{question}\n"
APPLY = (
    "You should watch and learn the video content. Then apply what you learned to answer the following {kind} question. The image for this question is "
    "at the end of the video.\n"
)
COUNTING = (
    Metric("long accuracy", "long_acc"),
    Metric("long OBOA", "long_oboa"),
    Metric("long MAE", "long_error", percent=False, higher=False),
    Metric("long RMSE", "long_squared", root=True, percent=False, higher=False),
    Metric("ref accuracy", "ref_acc"),
    Metric("ref OBOA", "ref_oboa"),
    Metric("ref MAE", "ref_error", percent=False, higher=False),
    Metric("ref RMSE", "ref_squared", root=True, percent=False, higher=False),
    Metric("clue WCS", "wcs"),
    Metric("clue IFA", "ifa"),
)

BENCHMARKS = {
    "toy": Benchmark(
        "Toy world",
        "rendered here",
        read_toy,
        size=320,
        splits=("kind",),
        rule="the training's accuracy reward is 1",
        score=toy_score,
        tokens=112,
        paper="{question}\n{options}",
    ),
    "omnibench": Benchmark(
        "OmniBench",
        "m-a-p/OmniBench: dataset/batch-5_1142_20240817.jsonl, mm_data/",
        read_omnibench,
        size=1_142,
        splits=("task type", "audio type"),
        system=QWEN,
        tokens=1024,
        rule="letter; gold is the option whose text is the answer",
        paper="Your task is to answer the multiple-choice question based on the provided image and audio. Select the single most accurate "
        "option.\n\nQuestion: {question}\nChoices:\n{options}\n\nYour answer should be a capital letter representing your choice: A, B, C, or D. "
        "Don't generate any other text. Return your choice between the <answer> tags, like this: <answer>A</answer>.\n",
    ),
    "dailyomni": Benchmark(
        "Daily-Omni",
        "liarliar/Daily-Omni: qa.json, Videos/ (Videos.tar)",
        read_dailyomni,
        size=1_197,
        splits=("Type", "video_duration", "video_category"),
        system=QWEN,
        tokens=4096,
        paper="\nYour task is to accurately answer multiple-choice questions based on the given video.\nSelect the single most accurate answer from the "
        "given choices.\nQuestion: {question}\nChoices: {list}\nYour answer should be a capital letter representing your choice: A, B, C, or D. Don't "
        "generate any other text.\n",
    ),
    "cgav": Benchmark(
        "CG-AV-Counting",
        "CG-Bench/CG-AV-Counting: cg-av-counting.json, cg_videos_720p/, ref_videos/",
        read_cgav,
        size=3_081,
        splits=("setting", "category", "type"),
        tokens=1024,
        score=count_score,
        metrics=COUNTING,
        rule="count: exact, off by one, MAE and RMSE with errors above max(2 gold, 100) taken as 2 gold, no number = 0; clues: WCS by optimal assignment, IFA",
        paper={
            "count": "Watch the video and answer the question '{question}' with a number. Just output the number itself, don't output anything else.",
            "event": CLUE_EVENT,
            "object": "{frames}" + CLUE_OBJECT,
            "attribute": "{frames}" + CLUE_ATTRIBUTE,
        },
    ),
    "avodyssey": Benchmark(
        "AV-Odyssey",
        "AV-Odyssey/AV_Odyssey_Bench (parquet), or AV_Odyssey_Bench_LMMs_Eval with av_odyssey.json",
        read_avodyssey,
        size=4_555,
        splits=("subfield", "question_type_id"),
        paper=RELEASED.replace("given video", "given multimodal content"),
    ),
    "worldsense": Benchmark(
        "WorldSense",
        "honglyhly/WorldSense: worldsense_qa.json, videos/",
        read_worldsense,
        size=3_172,
        several="first",
        splits=("task_domain", "task_type", "domain", "duration", "audio_class"),
    ),
    "intentbench": Benchmark(
        "IntentBench",
        "PhilipC/IntentBench: qa.json, videos/",
        read_intentbench,
        size=2_689,
        splits=("Type", "problem_type"),
        tokens=20,
        rule="letter; several letters by F1 of the sets; yes or no by the first word, or by the only one of the two; mean over all items (the authors' metric)",
        paper={
            "multiple choice": "Your task is to accurately answer the multiple-choice question based on the given video. Read the question and the "
            "options carefully, then select the single most accurate answer.\n\nQuestion: {question}\nOptions:\n{options}\n\nYour "
            "answer must be a single capital letter representing your choice (e.g., A, B, C, D).",
            "multi-label": "Based on the video, identify ALL the emotions or concepts that apply from the list below. More than one option can be "
            "correct.\n\nQuestion: {question}\nOptions:\n{options}\n\nYour answer must be a comma-separated list of all applicable "
            "letters (e.g., A, C, F).",
            "yes/no": "You are a deception detection expert. Based on the provided video, you must determine if the person is being truthful or "
            'deceptive. The question they were asked is: "{said}".\nAfter careful observation of their verbal and non-verbal cues, answer '
            "with only 'Yes' if you believe they are lying, or 'No' if you believe they are telling the truth. Do not provide any explanation "
            "or other text. Your answer must be 'Yes' or 'No'.",
        },
    ),
    "mvbench": Benchmark(
        "MVBench",
        "OpenGVLab/MVBench: json/, video/ (all zips unpacked there)",
        read_mvbench,
        size=4_000,
        splits=("task",),
        sound=False,
        several="first",
        tokens=4096,
        rule="letter; gold is the candidate whose text is the answer; mean over the 20 tasks; only the clip's bounds are shown",
        metrics=(Metric("mean over tasks", over=("task",)), Metric("accuracy")),
        paper="Question: {question}\nOptions:\n{round}\nYour answer should be a single capital letter representing your choice.",
    ),
    "videomme": Benchmark(
        "Video-MME",
        "lmms-lab/Video-MME: videomme/test-00000-of-00001.parquet, data/ (videos_chunked_*.zip)",
        read_videomme,
        size=2_700,
        splits=("duration", "domain", "task_type"),
        several="first",
        tokens=64,
        rule="letter; without subtitles",
        paper="Your task is to accurately answer the multiple-choice question based on the given video. Select the single most accurate answer from the "
        "provided choices.\nQuestion: {question}\n{options}\nYour answer should be a capital letter representing your choice. Do not generate any "
        "other text.",
    ),
    "lvbench": Benchmark(
        "LVBench",
        "THUDM/LVBench: video_info.meta.jsonl, all_videos/; or lmms-lab/LVBench (parquet)",
        read_lvbench,
        size=1_549,
        splits=("question_type", "type"),
        sound=False,
        several="first",
        rule="letter; a question counts in each of its types",
    ),
    "videoholmes": Benchmark(
        "Video-Holmes",
        "TencentARC/Video-Holmes: test_Video-Holmes.json, videos_cropped/ (videos.zip)",
        read_videoholmes,
        size=1_837,
        splits=("Question Type",),
    ),
    "mmvu": Benchmark(
        "MMVU",
        "yale-nlp/MMVU: validation.json, videos/",
        read_mmvu,
        size=1_000,
        splits=("question_type", "discipline", "subject"),
        sound=False,
        judge=(mmvu_question, mmvu_verdict),
        rule="letter; open answers by --judge with the authors' instruction (without one they are left out and counted)",
        paper={
            "multiple choice": RELEASED,
            "free-form": "\nQuestion: {question}\n\nDo not generate any intermediate reasoning process. Directly output the "
            "final short answer.\n",
        },
    ),
    "tomato": Benchmark(
        "TOMATO",
        "yale-nlp/TOMATO: data/*.json, videos/; or lmms-lab/TOMATO (parquet)",
        read_tomato,
        size=1_484,
        splits=("reasoning type", "demonstration type"),
        sound=False,
        rule="letter; gold is the option's place",
    ),
    "videommmu": Benchmark(
        "Video-MMMU",
        "lmms-lab/VideoMMMU: Perception/, Comprehension/, Adaptation/ (parquet), Art/ .. Science/ (zips)",
        read_videommmu,
        size=900,
        splits=("track", "subject"),
        sound=False,
        score=mmmu_score,
        tokens=1024,
        metrics=(Metric("mean over tracks", over=("track",)), Metric("accuracy")),
        rule="letter; open answers by MMMU's rule (number to two decimals, or gold text inside); mean over the 3 tracks",
        paper={
            "Perception": "{question}\n{options}\nPlease ignore the Quiz question in last frame of the video.",
            "Comprehension": "{question}\n{options}\nPlease ignore the Quiz question in last frame of the video.",
            "Adaptation": APPLY.replace("{kind}", "multi-choice") + "{question}\n{options}",
            "open": APPLY.replace("{kind}", "open-ended") + "{question}",
        },
    ),
    "vsi": Benchmark(
        "VSI-Bench",
        "nyu-visionx/VSI-Bench: test.jsonl (or parquet), arkitscenes/, scannet/, scannetpp/",
        read_vsi,
        size=5_130,
        splits=("task", "question_type", "dataset"),
        sound=False,
        several="first",
        score=vsi_score,
        metrics=(Metric("mean over tasks", over=("task", "question_type")),),
        tokens=16,
        rule="letter, or mean relative accuracy of a number; mean over 8 tasks, the three levels of relative direction being one",
        paper={
            "multiple choice": FRAMES
            + "Options:\n{options}\nAnswer with the option's letter from the given choices directly.",
            "numeric": FRAMES + "Please answer the question using a single word or phrase.",
        },
    ),
    "videott": Benchmark(
        "Video-TT",
        "lmms-lab/video-tt: data/*.parquet, Benchmark-AllVideos-LQ/",
        read_videott,
        ("question_type", "capability"),
        sound=False,
        several="first",
        judge=(videott_question, videott_verdict),
        metrics=(Metric("mean over question types", over=("question_type",)), Metric("accuracy")),
        tokens=50,
        rule="letter; open answers by --judge with the authors' instruction, right from 3 of 5; mean over the question types that are there and scored",
        paper={
            "multiple choice": "\n{question}\n{options}\n{prompt}\n",
            "free-form": "\n{question}\n{prompt}\n",
        },
    ),
}


def load_items(name: str, root: Path, scratch: Path) -> tuple[list[Item], list[tuple[str, str]]]:
    """A benchmark's Items, and (id, reason) of those that cannot be scored whatever a model says. Raises DataError where its files are not as they are
    downloaded. Of items that share an id the second is called "id#2"."""
    found, last, seen = {}, "its beginning", Counter()
    try:
        for one in BENCHMARKS[name].read(root, scratch):
            seen[one.sample.id] += 1
            last = f"item '{one.sample.id}'"
            if seen[one.sample.id] > 1:
                one.sample.id += f"#{seen[one.sample.id]}"
            found[one.sample.id] = one
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{root}: the first item after {last} is not as in {BENCHMARKS[name].title}'s own files ({type(error).__name__}: {error}); download it "
            f"again: {BENCHMARKS[name].files}"
        ) from error
    if not found:
        raise DataError(
            f"{root}: holds no item of {BENCHMARKS[name].title}; download it again: {BENCHMARKS[name].files}"
        )
    if all(one.broken for one in found.values()):
        raise DataError(
            f"{root}: none of its {len(found):,} items can be scored, e.g. {last}: {found[next(reversed(found))].broken}; download it again: "
            f"{BENCHMARKS[name].files}"
        )
    return [one for one in found.values() if not one.broken], [
        (i, one.broken) for i, one in found.items() if one.broken
    ]
