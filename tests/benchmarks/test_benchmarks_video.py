"""Nine benchmarks of video (layouts_video.py): the items read, the three ways of asking and the
scores, against values written out by hand."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from benchmarks.base import ask, read_answer
from benchmarks.mmvu import mmvu_question, mmvu_verdict
from benchmarks.scoring import mean_relative_accuracy, open_match
from benchmarks.table import BENCHMARKS
from benchmarks.videott import videott_question, videott_verdict
from data import question_text
from media.cache import load_media
from media.decode import MediaSettings
from tests.layouts_video import LAYOUTS, write_json, write_parquet

SETTINGS = MediaSettings(fps=8.0, max_frames=16, max_pixels=56 * 56)
MC, FREE, NUMBER = "multiple choice", "free-form", "numeric"
CHOSEN = "Multiple-choice Question with a Single Correct Answer"
CM = "A. 0 cm|B. 1 cm|C. 2 cm|D. 3 cm|E. 4 cm|F. 5 cm|G. 6 cm|H. 7 cm|I. 8 cm|J. 9 cm|K. 10 cm"
FAIRY = (
    "A. To get her to trust him|B. He secretly loved fairies|C. He lost a bet with Emily|D. It "
    "was dress like a fairy day at school|"
    "E. Mrs Ruiz made him dress up"
)
MONTAGE = {"capability": "Plot Attribute (Montage)"}


# id, question, options, gold, kind, media, labels, video ("": the first medium), and what else
# differs from a plain sample
ITEMS = {
    "mvbench": [
        (
            "mvbench-action_sequence-0",
            "What happened after the person took the food?",
            "A. Ate the medicine.|B. Tidied up the blanket.|C. Put down the cup/glass/bottle.|D. "
            "Took the box.",
            "A",
            MC,
            ["video/star/Charades_v1_480/ZS9XR.mp4"],
            {"task": "action_sequence"},
            "",
            {"span": (0.5, 1.5)},
        ),
        (
            "mvbench-action_antonym-0",
            "What is the action performed by the person in the video?",
            "A. Not sure|B. Scattering something down|C. Piling something up",
            "C",
            MC,
            ["video/ssv2_video/166583.webm"],
            {"task": "action_antonym"},
            "",
            {},
        ),
        (
            "mvbench-object_interaction-0",
            "Which object was tidied up by the person?",
            "A. broom|B. cabinet|C. blanket|D. table",
            "B",
            MC,
            ["video/star/star/Charades_v1_480/AE2G7.mp4"],
            {"task": "object_interaction"},
            "",
            {},
        ),  # its bounds run backwards
        (
            "mvbench-moving_count-0",
            "How many spheres are moving when the video ends?",
            "A. 3|B. 2|C. 0|D. 1",
            "B",
            MC,
            ["video/data0613/clevrer/video_validation/video_14727.mp4"],
            {"task": "moving_count"},
            "",
            {},
        ),
        (
            "mvbench-episodic_reasoning-0",
            "Why did Castle dress like a fairy when he was speaking to Emily?",
            FAIRY,
            "A",
            MC,
            ["video/tvqa/frames_fps3_hq/friends_s03e09_seg02_clip_07"],
            {"task": "episodic_reasoning"},
            "",
            {"span": (1.0, 3.0), "frame_rate": 3.0},
        ),
    ],
    "videomme": [
        (
            "videomme-001-1",
            "How many red socks are above the fireplace?",
            "A. 1.|B. 4.|C. 2.|D. 3.",
            "D",
            MC,
            ["data/fFjv93ACGo8.mp4"],
            {"duration": "short", "domain": "Knowledge", "task_type": "Counting Problem"},
            "fFjv93ACGo8",
            {},
        ),
        (
            "videomme-001-2",
            "Which hangs on the tree?",
            "A. Apples.|B. Candles.|C. Berries.|D. Stars.",
            "A",
            MC,
            ["data/fFjv93ACGo8.mp4"],
            {"duration": "short", "domain": "Knowledge", "task_type": "Object Recognition"},
            "fFjv93ACGo8",
            {},
        ),
        (
            "videomme-601-1",
            "What is first?",
            "A. Rain.|B. Snow.|C. Hail.|D. Fog.",
            "C",
            MC,
            ["data/-Ab_3.MP4"],
            {"duration": "long", "domain": "Knowledge", "task_type": "Temporal Reasoning"},
            "-Ab_3",
            {},
        ),
    ],
    "lvbench": [
        (
            "lvbench-0",
            "What year appears in the opening caption?",
            "A. 1636|B. 1366|C. 1363|D. 1633",
            "D",
            MC,
            ["all_videos/Cm73ma6Ibcs.mp4"],
            {"question_type": ["key information retrieval"], "type": "cartoon"},
            "Cm73ma6Ibcs",
            {},
        ),
        (
            "lvbench-1",
            "Who wins (by far)?",
            "A. The fox|B. The A team|C. Nobody|D. The dog",
            "A",
            MC,
            ["all_videos/Cm73ma6Ibcs.mp4"],
            {"question_type": ["event understanding", "reasoning"], "type": "cartoon"},
            "Cm73ma6Ibcs",
            {},
        ),
        (
            "lvbench-2",
            "Which colour?",
            "A. red|B. blue|C. green|D. white",
            "B",
            MC,
            ["all_videos/-tRtDI2.mp4"],
            {"question_type": ["entity recognition"], "type": "sport"},
            "-tRtDI2",
            {},
        ),
    ],
    "videoholmes": [
        (
            "videoholmes-0at001QMutY-1",
            "What are the two to each other?",
            "A. Siblings|B. Friends|C. Father and son|D. Rivals|E. Strangers|F. The same person",
            "F",
            MC,
            ["videos_cropped/0at001QMutY.mp4"],
            {"Question Type": "SR"},
            "0at001QMutY",
            {},
        ),
        (
            "videoholmes-0at001QMutY-2",
            "Order the events:\n1. knock\n2. scream",
            "A. 1, 2|B. 2, 1",
            "B",
            MC,
            ["videos_cropped/0at001QMutY.mp4"],
            {"Question Type": "TA"},
            "0at001QMutY",
            {},
        ),
    ],
    "mmvu": [
        (
            "mmvu-validation_1",
            "What is the pH?",
            "A. 10.0|B. 5.0|C. 12.0|D. 15.0|E. 20.0",
            "A",
            MC,
            ["videos/Chemistry/0.mp4"],
            {"question_type": "multiple-choice", "subject": "Chemistry", "discipline": "Science"},
            "",
            {},
        ),
        (
            "mmvu-validation_2",
            "Which search is shown?",
            "",
            "Depth-First Search (DFS)",
            FREE,
            ["videos/Computer_Science/7.mp4"],
            {
                "question_type": "open-ended",
                "subject": "Computer Science",
                "discipline": "Engineering",
            },
            "",
            {},
        ),
    ],
    "tomato": [
        (
            "tomato-count-0",
            "How many times does the person jump?",
            "A. 3|B. 1|C. 2|D. 5|E. 4|F. 6",
            "F",
            MC,
            ["videos/human/0209-03.mp4"],
            {"reasoning type": "count", "demonstration type": "human"},
            "human/0209-03",
            {},
        ),
        (
            "tomato-count-22",
            "How many turns?",
            "A. 2|B. 3|C. 1",
            "A",
            MC,
            ["videos/object/0585-02.mp4"],
            {"reasoning type": "count", "demonstration type": "object"},
            "object/0585-02",
            {},
        ),
        (
            "tomato-velocity&frequency-0",
            "How does its speed change?",
            "A. constant|B. faster|C. slower|D. no movement",
            "C",
            MC,
            ["videos/simulated/v-1.mp4"],
            {"reasoning type": "velocity&frequency", "demonstration type": "simulated"},
            "simulated/v-1",
            {},
        ),
    ],
    "videommmu": [
        (
            "videommmu-Perception-dev_Biology_3",
            "What is written at 0:12?",
            "A. C|B. B|C. A",
            "A",
            MC,
            ["Science/dev_Biology_3.mp4"],
            {"track": "Perception", "subject": "Biology"},
            "dev_Biology_3",
            {},
        ),
        (
            "videommmu-Comprehension-validation_Energy_and_Power_26",
            "How long is it?",
            CM,
            "K",
            MC,
            ["Engineering/validation_Energy_and_Power_26.mp4"],
            {"track": "Comprehension", "subject": "Energy and Power"},
            "validation_Energy_and_Power_26",
            {},
        ),
        (
            "videommmu-Adaptation-dev_Biology_3",
            "<image> What kind of sugar is this?",
            "A. aldose|B. ketose",
            "B",
            MC,
            ["Science/dev_Biology_3.mp4", "scratch/*.png"],
            {"track": "Adaptation", "subject": "Biology"},
            "dev_Biology_3",
            {},
        ),
        (
            "videommmu-Adaptation-validation_Energy_and_Power_26",
            "How many kW?",
            "",
            "12.97",
            FREE,
            ["Engineering/validation_Energy_and_Power_26.mp4", "scratch/*.png"],
            {"track": "Adaptation", "subject": "Energy and Power"},
            "validation_Energy_and_Power_26",
            {},
        ),
        (
            "videommmu-Adaptation-validation_Accounting_13",
            "Which is due? <image>",
            "",
            "C",
            FREE,
            ["Business/validation_Accounting_13.mp4", "scratch/*.png"],
            {"track": "Adaptation", "subject": "Accounting"},
            "validation_Accounting_13",
            {},
        ),
    ],
    "vsi": [
        (
            f"vsi-{166 + 10 * i}",
            f"Question {i}?",
            options,
            gold,
            NUMBER if i > 5 else MC,
            [f"{scene}.mp4"],
            {"task": task, "question_type": task + level, "dataset": scene.split("/")[0]},
            scene,
            {},
        )
        for i, (scene, (task, level, options, gold)) in enumerate(
            zip(
                4 * ["arkitscenes/47430468", "scannet/scene0011_00", "scannetpp/09c1414f1b"],
                [
                    ("object_rel_direction", "_easy", "A. left|B. right", "B"),
                    ("object_rel_direction", "_medium", "A. back|B. left|C. right", "A"),
                    (
                        "object_rel_direction",
                        "_hard",
                        "A. back-left|B. front-left|C. back-right|D. front-right",
                        "D",
                    ),
                    ("object_rel_distance", "", "A. table|B. tv|C. stool|D. sofa", "C"),
                    ("route_planning", "", "A. Turn Left|B. Turn Back|C. Turn Right", "A"),
                    ("obj_appearance_order", "", "A. cup, door|B. door, cup", "A"),
                    ("object_abs_distance", "", "", "2.3"),
                    ("object_counting", "", "", "4"),
                    ("object_size_estimation", "", "", "120"),
                    ("room_size_estimation", "", "", "20.5"),
                ],
                strict=False,
            )
        )
    ],
    "videott": [  # `test_all` repeats them and is read once
        (
            "videott-0008-7",
            "What is the trick?",
            "A. A cut.|B. A mirror.|C. A twin.|D. A stunt.",
            "B",
            MC,
            ["Benchmark-AllVideos-LQ/sj81PWrerDk.mp4"],
            {"question_type": CHOSEN} | MONTAGE,
            "sj81PWrerDk",
            {},
        ),
        (
            "videott-0009-7",
            "How many?",
            "A. 2|B. 3|C. 4|D. 5|E. 6",
            "E",
            MC,
            ["Benchmark-AllVideos-LQ/a-b_C.MP4"],
            {"question_type": CHOSEN, "capability": "Element Counting"},
            "a-b_C",
            {},
        ),
        (
            "videott-0008-0",
            "How is it done?",
            "",
            "By a mirror, as her watch is on the other arm.",
            FREE,
            ["Benchmark-AllVideos-LQ/sj81PWrerDk.mp4"],
            {"question_type": "Primary Open-ended Question"} | MONTAGE,
            "sj81PWrerDk",
            {},
        ),
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_items(read_layout, name):
    root, items = read_layout(name)
    for item, expected in zip(items, ITEMS[name], strict=True):
        key, question, options, gold, kind, media, labels, video, rest = expected
        sample = item.sample
        assert (sample.id, sample.question, sample.answer) == (key, question, gold)
        assert sample.options == (options.split("|") if options else [])
        assert sample.problem_type == kind
        assert item.labels == labels and set(BENCHMARKS[name].splits) <= set(labels)
        assert item.video == (video or sample.videos[0])
        assert sample.span == rest.get("span")
        assert sample.frame_rate == rest.get("frame_rate", 0.0)
        assert item.broken == ""

        paths = [Path(path) for _, path in sample.media]
        assert all(path.exists() for path in paths)
        names = [str(path.relative_to(root)) for path in paths]
        assert [re.sub(r"^scratch/[0-9a-f]{32}\.", "scratch/*.", n) for n in names] == media


def test_pictures_inside_parquet_are_written_out_and_stand_at_their_place(read_layout):
    _, items = read_layout("videommmu")
    pictures = [path for item in items for path in item.sample.images]
    greys = [np.unique(np.asarray(Image.open(path))).tolist() for path in pictures]
    assert greys == [[40], [80], [120]]

    tagged = items[4].sample
    clip, picture = ("video", tagged.videos[0]), ("image", tagged.images[0])
    assert tagged.segments() == [clip, ("text", "Which is due? "), picture]
    untagged = items[3].sample
    clip, picture = ("video", untagged.videos[0]), ("image", untagged.images[0])
    assert untagged.segments() == [clip, picture, ("text", "How many kW?")]


# ------------------------------------------------------------------ other layouts of the same files
def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def columns(root):
    """Video-MME as the released evaluation reads it: an object of columns, the videos flat."""
    path = root / "videomme/test-00000-of-00001.parquet"
    write_json(root / "videomme.json", pyarrow.parquet.read_table(path).to_pydict())
    path.unlink()
    (root / "data").rename(root / "videos")


def flat(column):
    """LVBench in rows, the video named by the column given."""

    def change(root):
        path = root / "video_info.meta.jsonl"
        records = []
        for row in lines_of(path):
            about = {"type": row["type"], column: row["key"] + ".mp4"}
            records += [qa | {"uid": str(qa["uid"])} | about for qa in row["qa"]]
        write_parquet(root / "data/train-00000-of-00001.parquet", records)
        path.unlink()
        (root / "all_videos").rename(root / "videos")

    return change


def tomato_rows(root):
    """TOMATO with parquet rows, whose ids are other ones."""
    records = [
        {
            "id": f"{path.stem}-{key}",
            "question": row["question"],
            "options": row["options"],
            "answer": row["answer"],
            "reason_type": path.stem,
            "demonstration_type": row["demonstration_type"],
            "video_path": f"videos/{row['demonstration_type']}/{row['key']}.mp4",
        }
        for path in sorted((root / "data").iterdir())
        for key, row in json.loads(path.read_text()).items()
    ]
    shutil.rmtree(root / "data")
    write_parquet(root / "data/test-00000-of-00001.parquet", records)


def halves(root):
    """VSI-Bench in two parquet files, the scenes in video/ and with their suffix."""
    records = [
        row | {"pruned": i > 4, "scene_name": row["scene_name"] + ".mp4"}
        for i, row in enumerate(lines_of(root / "test.jsonl"))
    ]
    (root / "test.jsonl").unlink()
    write_parquet(root / "test_debiased.parquet", records[:5])
    write_parquet(root / "test_pruned.parquet", records[5:])
    move(*[(name, f"video/{name}") for name in ("arkitscenes", "scannet", "scannetpp")])(root)


def move(*pairs):
    def change(root):
        for old, new in pairs:
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / old).rename(root / new)

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "mvbench",
            move(
                ("video/star/Charades_v1_480", "video/data0613/data0613/star/Charades_v1_480"),
                ("video/tvqa", "video/tvqa_"),
                ("video/tvqa_", "video/tvqa/tvqa"),
                ("video/ssv2_video/166583.webm", "video/ssv2_video/166583.mp4"),
            ),
        ),
        ("videomme", columns),
        (
            "videomme",
            move(
                ("data", "video"),
                ("videomme/test-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
            ),
        ),
        ("lvbench", flat("video_path")),
        ("lvbench", flat("video")),
        (
            "videoholmes",
            move(
                ("test_Video-Holmes.json", "Benchmark/test_Video-Holmes.json"),
                ("videos_cropped", "Benchmark/videos/videos_cropped"),
            ),
        ),
        ("videoholmes", move(("videos_cropped", "videos"))),
        ("mmvu", move(("validation.json", "data/validation.json"))),
        ("tomato", tomato_rows),
        ("tomato", move(("data", "jsons"))),
        (
            "videommmu",
            move(*[(name, f"videos/{name}") for name in ("Business", "Engineering", "Science")]),
        ),
        ("vsi", halves),
        (
            "videott",
            move(
                ("Benchmark-AllVideos-LQ", "video"),
                ("data/test_all-00000-of-00001.parquet", "test_all-00000-of-00001.parquet"),
            ),
        ),
    ],
)
def test_other_layouts_give_the_same_items(tmp_path, read_layout, name, change):
    LAYOUTS[name](tmp_path)
    change(tmp_path)
    items = list(BENCHMARKS[name].read(tmp_path, tmp_path / "scratch"))
    assert all(Path(path).exists() for item in items for _, path in item.sample.media)

    def by_id(items):
        """All fields of the items, with names of media for their paths."""
        fields = {}
        for item in items:
            media = {}
            for kind in ("videos", "images"):
                media[kind] = [Path(path).stem for path in getattr(item.sample, kind)]
            sample = vars(item.sample) | media
            rest = (item.labels, item.prompt_fields, item.truth, item.broken)
            fields[item.sample.id] = sample, rest
        return fields

    assert by_id(items) == by_id(read_layout(name)[1])


def test_a_negative_start_is_the_beginning(tmp_path):
    row = {"video": "a.mp4", "question": "When?", "candidates": ["x", "y"], "answer": "y"}
    rows = [row | {"start": -0.2, "end": 3}, row | {"start": 0, "end": 2.5}]
    write_json(tmp_path / "json/action_localization.json", rows)
    items = BENCHMARKS["mvbench"].read(tmp_path, tmp_path)
    assert [item.sample.span for item in items] == [(0.0, 3.0), (0.0, 2.5)]


# --------------------------------------------------------------------------- asking
T1 = (
    "Your task is to accurately answer multiple-choice questions based on the given video. Select "
    "the single most accurate answer from the given choices.\n"
    "Question: {}\nYour answer should be a capital letter representing your choice. Don't "
    "generate any other text."
)
PAPER = [
    (
        "mvbench",
        0,
        "Question: What happened after the person took the food?\nOptions:\n(A) Ate the "
        "medicine.\n(B) Tidied up the blanket.\n"
        "(C) Put down the cup/glass/bottle.\n(D) Took the box.\nYour answer should be a single "
        "capital letter representing your choice.",
    ),
    (
        "videomme",
        0,
        "Your task is to accurately answer the multiple-choice question based on the given video. "
        "Select the single most accurate answer from the "
        "provided choices.\nQuestion: How many red socks are above the fireplace?\nA. 1.\nB. 4.\n"
        "C. 2.\nD. 3.\nYour answer should be a capital "
        "letter representing your choice. Do not generate any other text.",
    ),
    (
        "lvbench",
        1,
        T1.format("Who wins (by far)?\n(A) The fox\n(B) The A team\n(C) Nobody\n(D) The dog"),
    ),
    ("videoholmes", 1, T1.format("Order the events:\n1. knock\n2. scream\nA. 1, 2\nB. 2, 1")),
    ("mmvu", 0, T1.format("What is the pH?\nA. 10.0\nB. 5.0\nC. 12.0\nD. 15.0\nE. 20.0")),
    (
        "mmvu",
        1,
        "\nQuestion: Which search is shown?\n\nDo not generate any intermediate reasoning "
        "process. Directly output the final short answer.\n",
    ),
    ("tomato", 1, T1.format("How many turns?\nA. 2\nB. 3\nC. 1")),
    (
        "videommmu",
        0,
        "What is written at 0:12?\nA. C\nB. B\nC. A\nPlease ignore the Quiz question in last "
        "frame of the video.",
    ),
    (
        "videommmu",
        1,
        "How long is it?\n"
        + CM.replace("|", "\n")
        + "\nPlease ignore the Quiz question in last frame of the video.",
    ),
    (
        "videommmu",
        2,
        "You should watch and learn the video content. Then apply what you learned to answer the "
        "following multi-choice question. The image for "
        "this question is at the end of the video.\n<image> What kind of sugar is this?\nA. "
        "aldose\nB. ketose",
    ),
    (
        "videommmu",
        3,
        "You should watch and learn the video content. Then apply what you learned to answer the "
        "following open-ended question. The image for "
        "this question is at the end of the video.\nHow many kW?",
    ),
    (
        "videommmu",
        4,
        "You should watch and learn the video content. Then apply what you learned to answer the "
        "following open-ended question. The image for "
        "this question is at the end of the video.\nWhich is due? <image>",
    ),
    (
        "vsi",
        4,
        "These are frames of a video.\nQuestion 4?\nOptions:\nA. Turn Left\nB. Turn Back\nC. Turn "
        "Right\nAnswer with the option's letter from the "
        "given choices directly.",
    ),
    (
        "vsi",
        7,
        "These are frames of a video.\nQuestion 7?\nPlease answer the question using a single "
        "word or phrase.",
    ),
    (
        "videott",
        0,
        "\nWhat is the trick?\nA. A cut.\nB. A mirror.\nC. A twin.\nD. A stunt.\nPlease select "
        "one option.\n",
    ),
    ("videott", 2, "\nHow is it done?\nPlease state your answer with a brief explanation.\n"),
]
DIRECT = {
    MC: "Answer with the option's letter only.",
    NUMBER: "Answer with a number only.",
    FREE: "Answer with a word or a short phrase only.",
}
THINK = {MC: "Answer with the letter.", NUMBER: "Answer with a number.", FREE: "Answer briefly."}


@pytest.mark.parametrize(("name", "i", "paper"), PAPER)
def test_asking(read_layout, name, i, paper):
    """Three styles about the same media; the item itself stays as it was."""
    item = read_layout(name)[1][i]
    before = json.dumps(vars(item.sample))
    kind = item.sample.problem_type
    plain = "\n".join([item.sample.question, *item.sample.options])
    asked = {style: ask(item, BENCHMARKS[name], style) for style in ("think", "direct", "paper")}
    think = "Think inside <think> </think>, then answer inside <answer> </answer>."
    assert question_text(asked["think"]) == f"{plain}\n{think} {THINK[kind]}"
    assert question_text(asked["direct"]) == f"{plain}\n{DIRECT[kind]}"
    assert question_text(asked["paper"]) == paper
    for sample in asked.values():
        assert sample.media == item.sample.media
        assert (sample.span, sample.system) == (item.sample.span, "")
    assert json.dumps(vars(item.sample)) == before


# --------------------------------------------------------------------------- scores
SCORES = [
    (
        "mvbench",
        0,
        {
            "(A)": 1,
            "A. Ate the medicine.": 1,
            "Best option:(A) Ate the medicine.": 1,
            "Ate the medicine.": 1,
            "A or B": 1,
            "B or A": 0,
            "": 0,
            "A person eats.": 0,
            "E": 0,
            "Because of the box": 0,
        },
    ),  # an article, a letter that it has no option for, a word
    (
        "mvbench",
        3,
        {"B": 1, "2": 1, "There are 2.": 1, "3": 0, "A": 0},
    ),  # options are A. 3, B. 2, C. 0, D. 1
    (
        "videomme",
        0,
        {
            "D": 1,
            "The best answer is: D.": 1,
            "D, not A": 1,
            "A. D": 0,
            "Does it?": 0,
            "<think>A</think><answer>D</answer>": 1,
            "<think>D": 0,
        },
    ),
    (
        "lvbench",
        1,
        {"(A) The fox": 1, "The fox": 1, "A fox wins.": 1, "Nobody but the fox": 0, "A, then D": 1},
    ),
    (
        "videoholmes",
        0,
        {"A? No, F.": 1, "F? No, A.": 0, "<answer>F: The same person</answer>": 1, "": 0},
    ),
    ("videoholmes", 1, {"F": 0, "B": 1, "2, 1": 1}),  # of two options
    ("mmvu", 0, {"Therefore, the final answer is: $A": 1, "10.0": 1, "A. 10.0": 1, "5.0": 0}),
    (
        "mmvu",
        1,
        {"": None, "<think>Depth first": None, "DFS": None},
    ),  # an open answer is the judge's
    (
        "tomato",
        0,
        {"6": 1, "F": 1, "A": 0, "3": 0, "It jumps 6 times.": 1},
    ),  # options are A. 3, .., F. 6
    ("tomato", 1, {"F": 0, "2": 1, "1": 0}),
    ("videommmu", 0, {"A": 1, "C": 0}),  # options are A. C, B. B, C. A
    ("videommmu", 1, {"K": 1, "10 cm": 1, "It is 10 cm long.": 1, "0 cm": 0, "L": 0}),
    (
        "videommmu",
        3,
        {
            "So the result is 12.968": 1,
            "P = 12.97": 1,
            "12.974 kW": 1,
            "12.9": 0,
            "13": 0,
            "": 0,
            "<answer>12.97</answer>": 1,
        },
    ),
    ("videommmu", 4, {"C": 1, "The answer is C.": 1, "Cash": 0, "A": 0}),
    ("vsi", 0, {"B. right": 1, "right": 1, "A, not B": 0, "D": 0, "Behind it": 0, "": 0}),
    (
        "vsi",
        7,
        {
            "4": 1,
            "4 chairs": 1,
            "three": 0.6,
            "There are 2 (or 4).": 0.1,
            "6": 0.1,
            "0": 0,
            "some": 0,
            "": 0,
        },
    ),  # gold 4: 3/4, 2/4, 6/4
    (
        "vsi",
        8,
        {"120 cm": 1, "108": 0.9, "about 96": 0.6, "1,200": 0, "-120": 0},
    ),  # gold 120: 18/20, 16/20, ten times, -1
    ("videott", 0, {"B": 1, "Because of B": 1, "B or C": 1, "C or B": 0, "A mirror.": 1, "": 0}),
    ("videott", 1, {"E. 6": 1, "6": 1, "F": 0}),
    ("videott", 2, {"": None, "With a mirror": None}),
]


@pytest.mark.parametrize(
    ("name", "i", "reply", "expected"),
    [(name, i, reply, score) for name, i, some in SCORES for reply, score in some.items()],
)
def test_scores(read_layout, name, i, reply, expected):
    item, benchmark = read_layout(name)[1][i], BENCHMARKS[name]
    scores = benchmark.score(item, read_answer(item, reply, benchmark.several))
    assert scores == {"score": None if expected is None else pytest.approx(expected)}


@pytest.mark.parametrize(
    ("said", "gold", "expected"),
    [
        (19, 20, 1.0),
        (18, 20, 0.9),
        (17, 20, 0.8),
        (16, 20, 0.6),
        (3, 4, 0.6),
        (4, 5, 0.6),
        (1, 2, 0.1),
        (6, 4, 0.1),
        (0, 4, 0.0),
        (9, 4, 0.0),
        (2.3, 2.3, 1.0),
        (0, 0, 1.0),
        (1, 0, 0.0),
    ],
)
def test_relative_accuracy_as_the_authors_floats_have_it(said, gold, expected):
    assert mean_relative_accuracy(said, gold) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reply", "gold", "expected"),
    [
        ("12.968", "12.97", 1),
        ("12.96", "12.97", 0),
        ("-0.5", "-0.50", 1),
        ("1e3", "1000", 1),
        ("The total is 1,200 m", "1200", 1),
        ("1200", "1,200", 1),
        ("It sorts by Merge sort.", "merge sort", 1),
        ("merge", "merge sort", 0),
        ("the answer is b", "B", 1),
        ("a bat", "b", 0),
        ("abc", "b", 0),
        ("First 3.\nThe answer is 4.", "4", 1),
        (
            "First 3.\nThe answer is 4.",
            "3",
            0,
        ),  # only what stands behind one of the phrases, where there is one
        ("x = 3\nthen y", "3", 1),
        ("x = 2 = 3", "2", 0),
        ("So of 5 the answer is 7.", "5", 0),
        ("", "B", 0),
        (".", "4", 0),
        ("four", "4", 0),
    ],
)
def test_open_answers_by_the_rule_of_mmmu(reply, gold, expected):
    assert open_match(reply, gold) == expected


@pytest.mark.parametrize(
    ("verdict", "reply", "expected"),
    [
        (mmvu_verdict, '{"extracted_answer": "DFS", "correct": true}', 1),
        (mmvu_verdict, 'So:\n```json\n{"extracted_answer": "BFS", "correct": false}\n```', 0),
        (mmvu_verdict, '{"extracted_answer": "DFS", "correct": True}', 1),
        (mmvu_verdict, '{"extracted_answer": "BFS", "correct": False}', 0),
        (mmvu_verdict, "Correct.", None),
        (mmvu_verdict, '{"correct": "maybe"}', None),
        (mmvu_verdict, "[true]", None),
        (mmvu_verdict, "", None),
        (videott_verdict, "{'pred': 'yes', 'score': 4.8}", 1),
        (videott_verdict, "{'pred': 'yes', 'score': 3}", 1),
        (videott_verdict, '{"score": "5"}', 1),
        (videott_verdict, "{'pred': 'no', 'score': 2}", 0),
        (videott_verdict, "{'pred': 'no', 'score': 2.9}", 0),
        (videott_verdict, "{'score': 0}", 0),
        (videott_verdict, "{'pred': 'yes', 'score': 10}", None),
        (videott_verdict, "yes", None),
        (videott_verdict, "", None),
    ],
)
def test_verdicts(verdict, reply, expected):
    assert verdict(reply) == expected


def test_what_the_judges_are_asked(read_layout):
    asked = mmvu_question(read_layout("mmvu")[1][1], "DFS {x}")
    assert asked.startswith(
        "Evaluate whether the model's final answer is correct by comparing it to the ground-truth "
        "answer provided for the given "
        "question.\n\nYou should first extract the final answer from the model's response, and "
        "then compare"
    )
    assert (
        'Output your response in the following structured format:\n{\n    "extracted_answer": // '
        "str value, the short final answer extracted from the "
        "model's response, do not hallucinate one that is not present in the response\n    "
        '"correct": // boolean value, True'
    ) in asked
    assert asked.endswith(
        "Question: Which search is shown?\n\nGround Truth Answer: Depth-First Search (DFS)\n\n"
        "Model Response to the Question: DFS {x}"
    )
    asked = videott_question(read_layout("videott")[1][2], "a {mirror}")
    assert (
        "question-answer pair:\n\nQuestion: How is it done?\nCorrect Answer: By a mirror, as her "
        "watch is on the other arm.\nPredicted Answer: "
        "a {mirror}\n\nProvide your evaluation only as a yes/no and score where the score is an "
        "integer value between 0 and 5, with 5"
    ) in asked
    assert asked.endswith(
        "For example, your response should look like this: {'pred': 'yes', 'score': 4.8}."
    )
    assert BENCHMARKS["mmvu"].judge == (mmvu_question, mmvu_verdict)
    assert BENCHMARKS["videott"].judge == (videott_question, videott_verdict)


# --------------------------------------------------------------------------- what is shown
def test_only_the_bounds_of_a_clip_are_shown_and_heard(read_layout):
    """8 frames per second, frame i a grey of 10 i, a tone from second 1.0 on; bounds 0.5 to 1.5:
    frames 4 to 11, silence and then half a second of tone."""
    item = read_layout("mvbench")[1][0]
    (media,) = load_media(item.sample, replace(SETTINGS, fps=8.0))
    assert np.round(media.frames.mean((1, 2, 3)) / 10).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert media.times.tolist() == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    assert len(media.sound) == 16_000 and not media.cut
    assert np.abs(media.sound[:7_000]).max() < 0.05
    assert np.abs(media.sound[9_000:]).max() > 0.4


@pytest.mark.parametrize(
    ("fps", "numbers", "step"),
    [(3.0, [4, 5, 6, 7, 8, 9], 1 / 3), (1.5, [4, 7], 1.0), (2.0, [4, 5, 7, 8], 0.5)],
)
def test_a_folder_of_frames_is_read_at_three_frames_per_second(read_layout, fps, numbers, step):
    """Pictures 00001.jpg to 00012.jpg, picture i a grey of 20 i: second 1.0 begins with 00004,
    second 3.0 with 00010. By fps, of these 6 pictures of 2 s all, every third, or those at 0, 1.5,
    3 and 4.5."""
    (media,) = load_media(read_layout("mvbench")[1][4].sample, replace(SETTINGS, fps=fps))
    assert np.round(media.frames.mean((1, 2, 3)) / 20).tolist() == numbers
    assert media.seconds_per_group == pytest.approx(2 * step) and media.sound is None
    assert media.times == pytest.approx((np.array(numbers) - 4) / 3)


def test_the_docs_list_every_benchmark_as_it_is():
    page = Path(__file__).parents[2] / "docs" / "evaluation.md"
    text = page.read_text(encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        title = benchmark.title
        if benchmark.size:
            title += f", {benchmark.size:,}"
        splits = ", ".join(benchmark.splits)
        cells = [f"`{name}`", title, benchmark.files, benchmark.scoring, splits]
        assert f"| {' | '.join(cells)} | " in text
