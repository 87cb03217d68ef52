"""The benchmarks of sound and picture, and the toy: items, prompts and scores, against values
worked out by hand from their authors' formats."""

import json
from pathlib import Path

import pytest

import toy
from benchmarks.base import ask, new_item, read_answer
from benchmarks.table import BENCHMARKS
from data import instructions, question_text
from formats.sample import DataError
from media.frames import read_moment
from tests.layouts_sound import write_image, write_json, write_wav


def score(name: str, item, completion: str) -> dict:
    """As eval.py scores: the answer read from the completion, then the benchmark's rule."""
    benchmark = BENCHMARKS[name]
    return benchmark.score(item, read_answer(item, completion, benchmark.several))


# --------------------------------------------------------------------------- items
INTENT = ["A. calm", "B. sad, tired", "C. glad", "D. angry", "E. bored", "F. A little shy"]
FEEL = ("How does he feel?", ["A. Because of A, sad.", "B. Glad.", "C. Calm.", "D. Angry."], "A")
PICTURE, ANN, SMILE = (
    "mm_data/image/1_024.png",
    "Videos/aB-9_x/aB-9_x_video.mp4",
    "videos/s1_trimmed-out.mp4",
)
# names of the labels, and per item: id, question, options, gold, media in the order of reading,
# video, labels
ITEMS = {
    "omnibench": (
        ("task type", "audio type"),
        [
            (
                "omnibench-0",
                "What are they doing?",
                [
                    "A. A man is reading",
                    "B. They sing",
                    "C. A man is  answering some questions",
                    "D. They wait",
                ],
                "C",
                f"{PICTURE} mm_data/audio/6-0044.wav",
                Path(PICTURE).name,
                "Action and Activity",
                "speech",
            ),
            (
                "omnibench-1",
                "What is  heard?",
                ["A. two  dogs", "B. a cat", "C. two dogs", "D. a car"],
                "C",
                "mm_data/image/3_011.png mm_data/audio/2_009.wav",
                "3_011.png",
                "Object Identification and Description",
                "sound event",
            ),
            (
                "omnibench-2",
                "Who plays?",
                ["A. a boy", "B. a girl", "C. a girl", "D. nobody"],
                "B",
                f"{PICTURE} mm_data/audio/2_009.wav",
                Path(PICTURE).name,
                "Action and Activity",
                "music",
            ),
            (
                "omnibench-3",
                "How many?",
                ["A. 1", "B. 2", "C. 3", "D. 4"],
                "5",
                f"{PICTURE} mm_data/audio/2_009.wav",
                Path(PICTURE).name,
                "Count and Quantity",
                "music",
            ),
        ],
    ),
    "dailyomni": (
        ("Type", "video_duration", "video_category"),
        [
            (
                "dailyomni-0",
                "What comes first?",
                ["A. A knock", "B. It's a bell", "C. A <b>bang</b>", "D. Speech"],
                "C",
                ANN,
                "aB-9_x",
                "Event Sequence",
                "30s",
                "Education",
            ),
            (
                "dailyomni-1",
                "Who {list} speaks?",
                ["A. Ann", "B. Bob", "C. I", "D. No one"],
                "A",
                ANN,
                "aB-9_x",
                "AV Event Alignment",
                "30s",
                "Education",
            ),
            (
                "dailyomni-2",
                "Why?",
                ["A. Rain", "B. Wind", "C. Snow", "D. Sun"],
                "D",
                "Videos/zz1/zz1_video.mp4",
                "zz1",
                "Inference",
                "60s",
                "none",
            ),
        ],
    ),
    "avodyssey": (
        ("subfield", "question_type_id"),
        [
            (
                "avodyssey-0",
                "Which of <image>, <image> fits <audio>?",
                ["A. <image>", "B. <image>", "C. Both", "D. None"],
                "B",
                "image/a.png image/image/b.png audio/a.wav image/image/b.png image/a.png",
                "avodyssey-0",
                "Timbre",
                "1",
            ),
            (
                "avodyssey-1",
                "Which sound fits <video>?",
                ["A. <audio>", "B. <audio>", "C. <audio>", "D. <audio>"],
                "A",
                "video/v.mp4 audio/b.wav audio/a.wav audio/d.wav audio/c.wav",
                "avodyssey-1",
                "Hallucination",
                "2",
            ),
            (
                "avodyssey-2",
                "Is <audio> higher than <audio>?",
                ["A. Yes", "B. No", "C. Equal", "D. Unknown"],
                "D",
                "audio/d.wav audio/a.wav audio/b.wav",
                "avodyssey-2",
                "Tone",
                "3",
            ),
        ],
    ),
    "worldsense": (
        ("task_domain", "task_type", "domain", "duration", "audio_class"),
        [
            (
                "worldsense-abc_task0",
                "Which is first?",
                ["A. The bell.", "B. The door.", "C. The car."],
                "B",
                "videos/abc.mp4",
                "abc",
                "Recognition",
                "Event Sorting",
                "Daily Life",
                "<1min",
                ["Speech", "Event"],
            ),
            (
                "worldsense-abc_task1",
                *FEEL,
                "videos/abc.mp4",
                "abc",
                "Reasoning",
                "Emotion Change",
                "Daily Life",
                "<1min",
                ["Speech", "Event"],
            ),
            (
                "worldsense-d-e_f_task0",
                *FEEL,
                "videos/d-e_f.mp4",
                "d-e_f",
                "Reasoning",
                "Emotion Change",
                "Music",
                "<1min",
                "none",
            ),
        ],
    ),
    "intentbench": (
        ("Type", "problem_type"),
        [
            (
                "intentbench-0-q1",
                "Why does she smile?",
                ["A. A joke", "B. I do", "C. No idea", "D. Yes"],
                "B",
                SMILE,
                SMILE[7:],
                "why",
                "multiple choice",
            ),
            (
                "intentbench-1-7",
                "What does he feel?",
                INTENT,
                "B,E",
                SMILE,
                SMILE[7:],
                "emotion",
                "emer_ov_mc",
            ),
            (
                "intentbench-2-",
                'He was asked "Did you go?" Is he lying?',
                [],
                "Yes",
                "s2.mp4",
                "s2.mp4",
                "deception",
                "judge",
            ),
            ("intentbench-3-", "Is she lying?", [], "No", "s2.mp4", "s2.mp4", "deception", "judge"),
            ("intentbench-4-", "Pick.", INTENT, "A,G", "s2.mp4", "s2.mp4", "emotion", "emer_ov_mc"),
        ],
    ),
}
BROKEN = {
    ("omnibench", 3): "its answer '5' is none of its 4 options",
    ("intentbench", 4): "its answer 'A,G' is none of its 6 options",
    ("avodyssey", 3): "it has no file for [img3]",
}


def agrees(item, name: str, expected: tuple) -> None:
    """All but id and media of an item."""
    _, question, options, gold, _, _, *labels = expected
    sample = item.sample
    assert (sample.question, sample.options, sample.answer) == (question, options, gold)
    assert item.labels == dict(zip(ITEMS[name][0], labels, strict=True))
    assert all(Path(path).is_file() for _, path in sample.media)


@pytest.mark.parametrize("name", ITEMS)
def test_items_by_hand(read_layout, name):
    root, items = read_layout(name)
    for item, expected in zip(items, ITEMS[name][1], strict=name != "avodyssey"):
        agrees(item, name, expected)
        assert item.sample.id == expected[0]
        assert item.video in (expected[5], str(root / expected[5]))
        paths = [path for _, path in item.sample.media]
        assert paths == [str(root / path) for path in expected[4].split()]

    broken = {(name, i): item.broken for i, item in enumerate(items) if item.broken}
    assert broken == {key: reason for key, reason in BROKEN.items() if key[0] == name}


@pytest.mark.parametrize("name", ["omnibench", "avodyssey", "worldsense"])
def test_parquet_files_hold_the_same_items(read_layout, name):
    items = read_layout(f"{name}_parquet")[1]
    pairs = zip(items, ITEMS[name][1], strict=name != "worldsense")
    for i, (item, expected) in enumerate(pairs):
        agrees(item, name, expected)
        assert item.sample.id == (f"worldsense-{i}" if name == "worldsense" else expected[0])


def test_media_inside_parquet_files_are_written_out_in_the_order_of_the_tags(read_layout, tmp_path):
    """Pictures 1, 2, 2, 1 and sounds 2, 1, 4, 3, byte by byte; a second reading writes nothing."""
    root, items = read_layout("avodyssey_parquet")
    pictures = [write_image(tmp_path / "x.png", 50 * i).read_bytes() for i in (1, 2, 2, 1)]
    assert [Path(path).read_bytes() for path in items[0].sample.images] == pictures
    sounds = [write_wav(tmp_path / "x.wav", 200 * i).read_bytes() for i in (2, 1, 4, 3)]
    assert [Path(path).read_bytes() for path in items[1].sample.audios] == sounds

    before = {path: path.stat().st_mtime_ns for path in (root / "scratch").iterdir()}
    list(BENCHMARKS["avodyssey"].read(root, root / "scratch"))
    assert {path: path.stat().st_mtime_ns for path in (root / "scratch").iterdir()} == before


def test_tags_stand_in_question_and_options(read_layout):
    root, items = read_layout("avodyssey")
    a = str(root / "image/a.png")
    b = str(root / "image/image/b.png")
    sound = str(root / "audio/a.wav")
    expected = [
        ("text", "Which of "),
        ("image", a),
        ("text", ", "),
        ("image", b),
        ("text", " fits "),
        ("audio", sound),
        ("text", "?\nA. "),
        ("image", b),
        ("text", "\nB. "),
        ("image", a),
        ("text", "\nC. Both\nD. None"),
    ]
    assert items[0].sample.segments() == expected
    paper = ask(items[0], BENCHMARKS["avodyssey"], "paper").segments()
    assert paper[1:-1] == expected[1:-1]
    assert paper[0][1].endswith("\nQuestion: Which of ")
    assert paper[-1][1].startswith("\nC. Both\nD. None\nYour answer")


def test_cgav_items_by_hand(read_layout):
    """Every question in three settings; 0.125 is written 0.12 in a clip's name."""
    root, items = read_layout("cgav")
    settings = ("long", "ref", "clue")
    ids = [item.sample.id for item in items]
    assert ids == [f"cgav-{i}-{setting}" for i in range(3) for setting in settings]
    assert {item.video for item in items} == {"x1"}
    assert [item.sample.answer for item in items] == ["2"] * 3 + ["3"] * 3 + ["2"] * 3
    for item, setting in zip(items[:3], settings, strict=True):
        assert item.labels == {"setting": setting, "category": "event", "type": "A2V"}
    assert items[3].labels == {"setting": "long", "category": "object", "type": "V"}

    whole = str(root / "cg_videos_720p/x1.mp4")
    assert items[0].sample.videos == items[2].sample.videos == [whole]
    for i, bounds in ((1, "0.12_1.00"), (4, "0.00_1.50"), (7, "0.50_1.75")):
        assert items[i].sample.videos == [str(root / f"ref_videos/x1_{bounds}.mp4")]


def test_cgav_clues_by_hand(read_layout):
    """Clue frames come by the first appearance of their times."""
    root, items = read_layout("cgav")
    whole = str(root / "cg_videos_720p/x1.mp4")
    assert items[0].truth is None
    assert items[2].truth == ("event", [[(0.5, 1), (1.25, 1.75)]], [])
    cups = [(0, (0, 0, 10, 10)), (1, (20, 20, 30, 40)), (0, (50, 50, 60, 60))]
    assert items[5].truth == ("object", [cups], [1.5, 0.5])
    colours = [[(0, (0, 0, 10, 10)), (1, (5, 5, 9, 9))], [(2, (20, 20, 30, 40))]]
    assert items[8].truth == ("attribute", colours, [0.5, 1.0, 0.25])
    for i, times in ((2, []), (5, [1.5, 0.5]), (8, [0.5, 1.0, 0.25])):
        assert items[i].sample.images == [f"{whole}#t={time}" for time in times]

    # frames 12 and 4 at 8 per second, each 15 brighter than the one before
    for path, grey in zip(items[5].sample.images, (15 * 12, 15 * 4), strict=True):
        assert abs(read_moment(path, "x").mean() - grey) < 8


def test_toy_items(tmp_path, monkeypatch):
    build = toy.build

    def build_two_clips(root, stage, split, clips):
        return build(root, stage, split, 2, progress=False)

    monkeypatch.setattr(toy, "build", build_two_clips)
    items = list(BENCHMARKS["toy"].read(tmp_path, tmp_path / "scratch"))
    lines = next(tmp_path.glob("*/stage2_heldout_2x2.jsonl")).read_text().splitlines()
    for item, line in zip(items, lines, strict=True):
        record = json.loads(line)
        assert item.sample.question == record["question"]
        assert item.sample.answer == record["answer"]
        assert item.labels == {"kind": record["kind"]}
        assert item.video == item.sample.videos[0] and Path(item.video).is_file()
        options = "\n".join(record["options"])
        question = ask(item, BENCHMARKS["toy"], "paper").question
        assert question == f"{record['question']}\n{options}"

        right = f"<think>t</think><answer>{record['answer']}</answer>"
        assert score("toy", item, right) == {"score": 1.0}
        assert score("toy", item, "<answer>Z</answer>") == {"score": 0.0}
        assert score("toy", item, "") == {"score": 0.0}

    # 3 of 4 is worth 0.75 in training, and nothing here
    count = new_item("x", "How many?", "4", kind="counting")
    assert score("toy", count, "<answer>3</answer>") == {"score": 0.0}
    assert score("toy", count, "<answer>four</answer>") == {"score": 1.0}


# --------------------------------------------------------------------------- prompts
QWEN = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating "
    "text and speech."
)
LETTER = "Your answer should be a capital letter representing your choice"
THINK = "Think inside <think> </think>, then answer inside <answer> </answer>. "
# benchmark, item, end of the think style, direct, system and text of the released evaluation
PROMPTS = [
    (
        "omnibench",
        1,
        "Answer with the letter.",
        "Answer with the option's letter only.",
        QWEN,
        "Your task is to answer the multiple-choice question based on the provided image and "
        "audio. Select the single most accurate option.\n\nQuestion: What is  "
        f"heard?\nChoices:\nA. two  dogs\nB. a cat\nC. two dogs\nD. a car\n\n{LETTER}: A, B, C, "
        "or D. Don't generate any other text. Return your choice between "
        "the <answer> tags, like this: <answer>A</answer>.\n",
    ),
    (
        "dailyomni",
        0,
        "Answer with the letter.",
        "Answer with the option's letter only.",
        QWEN,
        "\nYour task is to accurately answer multiple-choice questions based on the given video.\n"
        "Select the single most accurate answer from the given choices.\n"
        "Question: What comes first?\nChoices: ['A. A knock', \"B. It's a bell\", 'C. A "
        "<b>bang</b>', 'D. Speech']\n"
        f"{LETTER}: A, B, C, or D. Don't generate any other text.\n",
    ),
    (
        "dailyomni",
        1,
        "Answer with the letter.",
        "Answer with the option's letter only.",
        QWEN,
        "\nYour task is to accurately answer multiple-choice questions based on the given video.\n"
        "Select the single most accurate answer from the given choices.\n"
        f"Question: Who {{list}} speaks?\nChoices: ['A.Ann', 'B. Bob', 'C. I', 'D. No one']\n"
        f"{LETTER}: A, B, C, or D. Don't generate any other text.\n",
    ),
    (
        "avodyssey",
        2,
        "Answer with the letter.",
        "Answer with the option's letter only.",
        "",
        "Your task is to accurately answer multiple-choice questions based on the given "
        "multimodal content. Select the single most accurate answer from the given "
        "choices.\nQuestion: Is <audio> higher than <audio>?\nA. Yes\nB. No\nC. Equal\nD. "
        f"Unknown\n{LETTER}. Don't generate any other text.",
    ),
    (
        "worldsense",
        0,
        "Answer with the letter.",
        "Answer with the option's letter only.",
        "",
        "Your task is to accurately answer multiple-choice questions based on the given video. "
        "Select the single most accurate answer from the given choices.\n"
        f"Question: Which is first?\nA. The bell.\nB. The door.\nC. The car.\n{LETTER}. Don't "
        "generate any other text.",
    ),
    (
        "intentbench",
        0,
        "Answer with the letter.",
        "Answer with the option's letter only.",
        "",
        "Your task is to accurately answer the multiple-choice question based on the given video. "
        "Read the question and the options carefully, then select the "
        "single most accurate answer.\n\nQuestion: Why does she smile?\nOptions:\nA. A joke\nB. I "
        "do\nC. No idea\nD. Yes\n\nYour answer must be a single capital "
        "letter representing your choice (e.g., A, B, C, D).",
    ),
    (
        "intentbench",
        1,
        "Answer with the letters, joined by commas.",
        "Answer with the letters of all options that apply, joined by commas.",
        "",
        "Based on the video, identify ALL the emotions or concepts that apply from the list "
        "below. More than one option can be correct.\n\nQuestion: What does he "
        "feel?\nOptions:\nA. calm\nB. sad, tired\nC. glad\nD. angry\nE. bored\nF. A little shy\n\n"
        "Your answer must be a comma-separated list of all applicable "
        "letters (e.g., A, C, F).",
    ),
    *[
        (
            "intentbench",
            i,
            "Answer yes or no.",
            "Answer yes or no only.",
            "",
            "You are a deception detection expert. Based on the provided video, you must "
            "determine if the person is being truthful or deceptive. The question they "
            f'were asked is: "{said}".\nAfter careful observation of their verbal and '
            "non-verbal cues, answer with only 'Yes' if you believe they are lying, or "
            "'No' if you believe they are telling the truth. Do not provide any explanation or "
            "other text. Your answer must be 'Yes' or 'No'.",
        )
        for i, said in ((2, "Did you go?"), (3, "the question"))
    ],
    *[
        (
            "cgav",
            i,
            "Answer with a number.",
            "Answer with a number only.",
            "",
            "Watch the video and answer the question 'How many knocks?' with a number. Just "
            "output the number itself, don't output anything else.",
        )
        for i in (0, 1)
    ],
    (
        "cgav",
        2,
        "Answer with the JSON.",
        "Answer with the JSON only.",
        "",
        "Watch the video and provide your answer to the question 'How many knocks?', including "
        "the start and end timestamps for each event. Format your answer in "
        "JSON, enclosed in <answer> and </answer> tags. The output should look like this: "
        '<answer>[["start_time", "end_time"], ...]</answer>. Ensure each '
        "timestamp is in seconds (e.g., xx.xx ).",
    ),
    (
        "cgav",
        5,
        "Answer with the JSON.",
        "Answer with the JSON only.",
        "",
        "Frame1: <image>\nFrame2: <image>\nAccording to the given video frames, answer the "
        "question 'How many cups?', including the bounding box for the query "
        "object in the first frame where it appears. For subsequent frames where the object "
        "appears, do not provide the bounding box again. Format your answer "
        "in JSON, enclosed within <answer> and </answer> tags. The output should look like this: "
        '<answer>{"Frame1": [[xmin, ymin, x_max, y_max]], "Frame2": []}</answer>.',
    ),
    (
        "cgav",
        8,
        "Answer with the JSON.",
        "Answer with the JSON only.",
        "",
        "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nAccording to the given video frames, "
        "answer the question 'How many colours of cups?', clustering the "
        "objects based on the question. For each unique cluster, assign a unique label and return "
        "the bounding box for each object in the first frame where it "
        "appears. Format your answer in JSON, enclosed within <answer> and </answer> tags. The "
        "output should look like this: "
        '<answer>{"Frame 1": [{"bbox": [x_min, y_min, x_max, y_max], \'label\': "Label 1"}], '
        '"Frame 2": [...] }</answer>.',
    ),
]


@pytest.mark.parametrize(("name", "i", "think", "direct", "system", "paper"), PROMPTS)
def test_prompts_by_hand(read_layout, name, i, think, direct, system, paper):
    item, benchmark = read_layout(name)[1][i], BENCHMARKS[name]
    asked = {style: ask(item, benchmark, style) for style in ("think", "direct", "paper")}
    lines = "\n".join([item.sample.question, *item.sample.options])
    assert question_text(asked["think"]) == f"{lines}\n{THINK}{think}"
    assert question_text(asked["direct"]) == f"{lines}\n{direct}"
    assert question_text(asked["paper"]) == paper
    assert asked["think"].system == asked["direct"].system == ""
    assert asked["paper"].system == system
    assert "JSON" in think or asked["think"].instruction == instructions(item.sample)
    assert all(sample.media == item.sample.media for sample in asked.values())
    assert item.sample.instruction is None


# --------------------------------------------------------------------------- scores
SCORES = [  # benchmark, item, {reply: score}
    (
        "dailyomni",
        0,
        {
            "C": 1,
            "c": 1,
            " (c). ": 1,
            "C. A <b>bang</b>": 1,
            "<answer>C</answer>": 1,
            "<answer>A <b>bang</b></answer>": 1,
            "**C**": 1,
            "A loud bang, so C.": 1,
            "B or C": 1,
            "C or B": 0,
            "E": 0,
            "E, or rather C": 1,
            "The answer is C, not A or B.": 1,
            "Speech": 0,
            "C.\n\nB is too early.": 1,
            "Because of the crash": 0,
            "": 0,
            "<think>It is C": 0,
            "<think>A</think>C": 1,
            "</think>": 0,
            "<answer>C": 1,
            "<think>C</think><answer>D</answer>": 0,
            "<think><answer>D</answer></think><answer>C</answer>": 1,
            "<answer></answer>": 0,
            "<answer>B</answer> No: <answer>C</answer>": 1,
        },
    ),
    ("dailyomni", 1, {"I say A": 1, "A is right": 1, "A man speaks": 0, "Ann": 1, "Anna": 0}),
    (
        "omnibench",
        0,
        {
            "A man is answering some questions": 1,
            "A man is  answering some questions.": 1,
            "A": 0,
            "A man": 0,
            "C": 1,
        },
    ),
    ("omnibench", 1, {"C": 1, "A": 1, "two dogs": 0}),
    ("omnibench", 2, {"a girl": 0, "B": 1, "C": 1, "a boy": 0}),
    ("avodyssey", 2, {"D": 1, "Unknown": 1, "[audio1]": 0, "unknown, or B": 0}),
    ("worldsense", 0, {"D? No, B": 1, "B or C": 1, "C or B": 0, "The door": 1, "Because": 0}),
    ("worldsense", 1, {"A. Because of A, sad.": 1, "B": 0, "Because of A, sad": 1}),
    ("intentbench", 0, {"I do": 1, "I say B": 1, "Yes": 0, "No idea.": 0, "B.I do": 1}),
    # F1 = 2 |both| / (|said| + |gold|), gold B and E
    (
        "intentbench",
        1,
        {
            "B,E": 1,
            "e; b": 1,
            "B": 2 / 3,
            "B,B": 2 / 3,
            "A,B,E": 4 / 5,
            "A, B, and E.": 4 / 5,
            "C": 0,
            "": 0,
            "B,Z": 2 / 4,
            "glad, bored": 2 / 4,
            "<answer>B. sad, tired, E. bored</answer>": 1,
            "<think>A</think>B and E": 1,
            "<think>B,E": 0,
            "A, B, C, D, E, F": 4 / 8,
        },
    ),
    (
        "intentbench",
        2,
        {
            "Yes": 1,
            "yes, he lies.": 1,
            "No": 0,
            "The answer is Yes.": 1,
            "Yesterday": 0,
            "I know": 0,
            "It is no sign, yes": 0,
            "": 0,
            "<think>No</think><answer>Yes</answer>": 1,
            "<think>Yes": 0,
        },
    ),
    ("intentbench", 3, {"**No**": 1, "no": 1, "Yes": 0, "None": 0, "": 0}),
]


@pytest.mark.parametrize(
    ("name", "i", "reply", "expected"),
    [(name, i, reply, value) for name, i, replies in SCORES for reply, value in replies.items()],
)
def test_scores_by_hand(read_layout, name, i, reply, expected):
    assert score(name, read_layout(name)[1][i], reply) == {"score": pytest.approx(expected)}


def test_an_empty_option_is_not_what_an_empty_reply_chooses():
    item = new_item("x", "Which?", "B", ["A. red", "B. "])
    for reply, expected in (("", 0.0), ("...", 0.0), ("B", 1.0)):
        assert score("dailyomni", item, reply) == {"score": expected}


@pytest.mark.parametrize(
    ("i", "reply", "expected"),
    [
        (2, '<answer>[["0.5", "1.0"], ["0:01.25", "1.75"]]</answer>', (1, 1)),
        (2, "I hear two.", (0, 0)),
        (2, "[]", (0, 1)),
        (5, '{"Frame1": [[50, 50, 60, 60], [0, 0, 10, 10]], "Frame2": [[20, 20, 30, 40]]}', (1, 1)),
        (5, "[[0, 0, 10, 10]]", (0, 0)),
        (
            8,
            '{"Frame 3": [{"label": "r", "bbox": [20, 20, 30, 40]}]}',
            (0.5, 1),
        ),  # the second of two clusters, whole
        (8, '{"Frame 3": [{"bbox": [20, 20, 30, 40]}]}', (0, 0)),
        (8, "{}", (0, 1)),
        (8, "", (0, 0)),
    ],
)
def test_clue_scores_by_hand(read_layout, i, reply, expected):
    wcs, ifa = expected
    parts = score("cgav", read_layout("cgav")[1][i], reply)
    assert parts == {"wcs": pytest.approx(wcs), "ifa": ifa}


# --------------------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("worldsense", "worldsense_qa.json", "[1", "worldsense_qa.json: not JSON"),
        ("dailyomni", "qa.json", "{", "qa.json: not JSON"),
        ("omnibench", "x.jsonl", "{\n", "x.jsonl:1: not a JSON object"),
        ("avodyssey", "av_odyssey_part1.parquet", "no", "not a parquet file"),
        ("intentbench", "qa.json", '[{"problem": "x", "problem_type": "essay"}]', "'essay'"),
        ("cgav", "other.json", "[]", "none of cg-av-counting.json"),
    ],
)
def test_bad_files_are_named(tmp_path, name, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message.replace("'", ".")):
        list(BENCHMARKS[name].read(tmp_path, tmp_path))


def test_other_places_of_dailyomni(tmp_path):
    """Its items may be the values of an object."""
    row = {
        "Question": "q",
        "Choice": ["A. x", "B. y"],
        "Answer": "B",
        "video_id": "v",
        "Type": "t",
        "video_duration": "30s",
    }
    write_json(tmp_path / "qa.json", {"Entry_1": row, "Entry_2": row | {"Answer": ""}})
    items = list(BENCHMARKS["dailyomni"].read(tmp_path, tmp_path))
    assert [item.sample.answer for item in items] == ["B", ""]
    assert [item.broken for item in items] == ["", "it has no gold answer"]


def test_other_places_of_intentbench(tmp_path):
    """It may be a folder inside the root."""
    row = {"problem": "q", "problem_type": "judge", "answer": "No", "video": "v.mp4"}
    write_json(tmp_path / "IntentBench/qa.json", [row])
    (tmp_path / "IntentBench/v.mp4").touch()
    [item] = BENCHMARKS["intentbench"].read(tmp_path, tmp_path)
    assert item.sample.videos == [str(tmp_path / "IntentBench/v.mp4")]
    assert item.labels["Type"] == "none"
