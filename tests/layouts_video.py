"""Small folders in the layouts in which nine video benchmarks are downloaded: their file names,
fields and forms of values, with real media of a second or two.

Each function writes one and returns the number of items in it. Media are made on the spot: frame i
of a clip is one grey of 10 i.
"""

import io
import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.layouts_sound import write_json, write_parquet


def write_video(path: Path, seconds: float = 1.0, rate: int = 8, tone: float | None = None) -> Path:
    """An .mp4 of 56 x 56 pixels whose frame i is one grey of 10 i. tone: the second from which on
    its sound track, silent until then, is heard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as box:
        video = box.add_stream("libx264", rate=rate, options={"crf": "10"})
        video.height = video.width = 56
        video.pix_fmt = "yuv420p"
        audio = None if tone is None else box.add_stream("aac", rate=16_000, layout="mono")
        for i in range(round(seconds * rate)):
            pixels = np.full((56, 56, 3), 10 * i, np.uint8)
            box.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        box.mux(video.encode())
        if audio:
            t = np.arange(round(16_000 * seconds)) / 16_000
            wave = (0.5 * np.sin(2 * np.pi * 440 * t) * (t >= tone)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            block.sample_rate = 16_000
            box.mux([*audio.encode(block), *audio.encode()])
    return path


def write_frames(folder: Path, count: int) -> Path:
    """A folder of pictures 00001.jpg, 00002.jpg, .., picture i one grey of 20 i."""
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        picture = Image.fromarray(np.full((56, 56, 3), 20 * i, np.uint8))
        picture.save(folder / f"{i:05d}.jpg", quality=95)
    return folder


def write_clips(root: Path, *names: str) -> None:
    """The same small clip under every name."""
    first = write_video(root / names[0])
    for name in names[1:]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, root / name)


def mvbench(root: Path) -> int:
    """Zips unpacked in video/, one of them in a folder of its name; a late file in data0613/."""
    write_json(
        root / "json/action_sequence.json",
        [
            {
                "video": "ZS9XR.mp4",
                "question": "What happened after the person took the food?",
                "candidates": [
                    "Ate the medicine.",
                    "Tidied up the blanket.",
                    "Put down the cup/glass/bottle.",
                    "Took the box.",
                ],
                "answer": "Ate the medicine.",
                "question_id": "Sequence_T1_1",
                "start": 0.5,
                "end": 1.5,
            }
        ],
    )
    write_json(
        root / "json/action_antonym.json",
        [
            {
                "video": "166583.webm",
                "question": "What is the action performed by the person in the video?",
                "candidates": ["Not sure", "Scattering something down", "Piling something up"],
                "answer": "Piling something up",
            }
        ],
    )
    write_json(
        root / "json/object_interaction.json",
        [
            {
                "video": "AE2G7.mp4",
                "question": "Which object was tidied up by the person?",
                "candidates": ["broom", "cabinet", "blanket", "table"],
                "answer": "cabinet",
                "start": 1.8,
                "end": 0.2,
            }
        ],
    )
    write_json(
        root / "json/moving_count.json",
        [
            {
                "video": "video_14727.mp4",
                "question": "How many spheres are moving when the video ends?",
                "candidates": ["3", "2", "0", "1"],
                "answer": "2",
            }
        ],
    )
    write_json(
        root / "json/episodic_reasoning.json",
        [
            {
                "video": "friends_s03e09_seg02_clip_07",
                "question": "Why did Castle dress like a fairy when he was speaking to Emily?",
                "candidates": [
                    "To get her to trust him",
                    "He secretly loved fairies",
                    "He lost a bet with Emily",
                    "It was dress like a fairy day at school",
                    "Mrs Ruiz made him dress up",
                ],
                "answer": "To get her to trust him",
                "start": 1.0,
                "end": 3.0,
                "fps": 3,
            }
        ],
    )
    write_video(root / "video/star/Charades_v1_480/ZS9XR.mp4", 2.0, tone=1.0)
    write_clips(
        root,
        "video/ssv2_video/166583.webm",
        "video/star/star/Charades_v1_480/AE2G7.mp4",
        "video/data0613/clevrer/video_validation/video_14727.mp4",
    )
    write_frames(root / "video/tvqa/frames_fps3_hq/friends_s03e09_seg02_clip_07", 12)
    return 5


def videomme(root: Path) -> int:
    about = {
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
    }
    write_parquet(
        root / "videomme/test-00000-of-00001.parquet",
        [
            {
                "video_id": "001",
                "duration": "short",
                **about,
                "videoID": "fFjv93ACGo8",
                "question_id": "001-1",
                "task_type": "Counting Problem",
                "question": "How many red socks are above the fireplace?",
                "options": ["A. 1.", "B. 4.", "C. 2.", "D. 3."],
                "answer": "D",
            },
            {
                "video_id": "001",
                "duration": "short",
                **about,
                "videoID": "fFjv93ACGo8",
                "question_id": "001-2",
                "task_type": "Object Recognition",
                "question": "Which hangs on the tree?",
                "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. Stars."],
                "answer": "A",
            },
            {
                "video_id": "601",
                "duration": "long",
                **about,
                "videoID": "-Ab_3",
                "question_id": "601-1",
                "task_type": "Temporal Reasoning",
                "question": "What is first?",
                "options": ["A. Rain.", "B. Snow.", "C. Hail.", "D. Fog."],
                "answer": "C",
            },
        ],
    )
    write_clips(root, "data/fFjv93ACGo8.mp4", "data/-Ab_3.MP4")
    return 3


def lvbench(root: Path) -> int:
    write_json(
        root / "video_info.meta.jsonl",
        [
            {
                "key": "Cm73ma6Ibcs",
                "type": "cartoon",
                "video_info": {"duration_minutes": 32.5, "fps": 25.0, "resolution": "640x360"},
                "qa": [
                    {
                        "uid": "0",
                        "question": "What year appears in the opening caption?\n(A) 1636\n(B) "
                        "1366\n(C) 1363\n(D) 1633",
                        "answer": "D",
                        "question_type": ["key information retrieval"],
                        "time_reference": "00:15-00:19",
                    },
                    {
                        "uid": "1",
                        "question": "Who wins (by far)?\n(A) The fox\n(B) The A team\n(C) Nobody\n"
                        "(D) The dog",
                        "answer": "A",
                        "question_type": ["event understanding", "reasoning"],
                        "time_reference": "01:02:03-01:02:09",
                    },
                ],
            },
            {
                "key": "-tRtDI2",
                "type": "sport",
                "video_info": {},
                "qa": [
                    {
                        "uid": 2,
                        "question": "Which colour?\n(A) red\n(B) blue\n(C) green\n(D) white",
                        "answer": "B",
                        "question_type": ["entity recognition"],
                        "time_reference": "2:03",
                    }
                ],
            },
        ],
    )
    write_clips(root, "all_videos/Cm73ma6Ibcs.mp4", "all_videos/-tRtDI2.mp4")
    return 3


def videoholmes(root: Path) -> int:
    write_json(
        root / "test_Video-Holmes.json",
        [
            {
                "video ID": "0at001QMutY",
                "Question ID": 1,
                "Question Type": "SR",
                "Question": "What are the two to each other?",
                "Options": {
                    "A": "Siblings",
                    "B": "Friends",
                    "C": "Father and son",
                    "D": "Rivals",
                    "E": "Strangers",
                    "F": "The same person",
                },
                "Answer": "F",
                "Explanation": "They share one scar.",
            },
            {
                "video ID": "0at001QMutY",
                "Question ID": 2,
                "Question Type": "TA",
                "Question": "Order the events:\n1. knock\n2. scream",
                "Options": {"A": "1, 2", "B": "2, 1"},
                "Answer": "B",
                "Explanation": "The scream comes first.",
            },
        ],
    )
    write_clips(root, "videos_cropped/0at001QMutY.mp4")
    return 2


def mmvu(root: Path) -> int:
    hub = "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/"
    write_json(
        root / "validation.json",
        [
            {
                "id": "validation_1",
                "video": hub + "videos/Chemistry/0.mp4",
                "youtube_url": " https://www.youtube.com/watch?v=a",
                "question_type": "multiple-choice",
                "metadata": {
                    "subject": "Chemistry",
                    "textbook": "",
                    "knowledge": [],
                    "rationale": "",
                },
                "question": "What is the pH?",
                "choices": {"A": "10.0", "B": "5.0", "C": "12.0", "D": "15.0", "E": "20.0"},
                "answer": "A",
            },
            {
                "id": "validation_2",
                "video": hub + "videos/Computer_Science/7.mp4",
                "youtube_url": "",
                "question_type": "open-ended",
                "metadata": {
                    "subject": "Computer Science",
                    "textbook": "",
                    "knowledge": [],
                    "rationale": "",
                },
                "question": "Which search is shown?",
                "choices": {"A": "", "B": "", "C": "", "D": "", "E": ""},
                "answer": "Depth-First Search (DFS)",
            },
        ],
    )
    write_clips(root, "videos/Chemistry/0.mp4", "videos/Computer_Science/7.mp4")
    return 2


def tomato(root: Path) -> int:
    rest = {
        "video_source_url": "",
        "variation": {"counterfactual": 0, "composite": 0, "zoom": 0, "first_person": 0},
        "note": "",
    }
    write_json(
        root / "data/count.json",
        {
            "0": {
                "question": "How many times does the person jump?",
                "options": ["3", "1", "2", "5", "4", "6"],
                "answer": 5,
                "key": "0209-03",
                "motion_type": "count",
                "demonstration_type": "human",
                **rest,
            },
            "22": {
                "answer": 0,
                "options": ["2", "3", "1"],
                "question": "How many turns?",
                "key": "0585-02",
                "demonstration_type": "object",
                "motion_type": "count",
                **rest,
            },
        },
    )
    write_json(
        root / "data/velocity&frequency.json",
        {
            "0": {
                "question": "How does its speed change?",
                "options": ["constant", "faster", "slower", "no movement"],
                "answer": 2,
                "key": "v-1",
                "motion_type": "velocity&frequency",
                "demonstration_type": "simulated",
                **rest,
            }
        },
    )
    write_clips(
        root, "videos/human/0209-03.mp4", "videos/object/0585-02.mp4", "videos/simulated/v-1.mp4"
    )
    return 3


def videommmu(root: Path) -> int:
    """The pictures of the Adaptation track stand inside its parquet file."""

    def picture(grey: int) -> dict:
        file = io.BytesIO()
        Image.fromarray(np.full((28, 28, 3), grey, np.uint8)).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": f"grey_{grey}.png"}

    sugar = "dev_Biology_3"
    power = "validation_Energy_and_Power_26"
    books = "validation_Accounting_13"
    url = {"link_selected": "https://www.youtube.com/watch?v=b"}
    eleven = [f"{i} cm" for i in range(11)]
    chosen = {"question_type": "multiple-choice"}
    case = {"qa_type": "Case Study Analysis"} | url
    write_parquet(
        root / "Perception/test-00000-of-00001.parquet",
        [
            {
                "id": sugar,
                "question": "What is written at 0:12?",
                "options": ["C", "B", "A"],
                "answer": "A",
                "qa_type": "OCR",
            }
            | chosen
            | url
        ],
    )
    write_parquet(
        root / "Comprehension/test-00000-of-00001.parquet",
        [
            {
                "id": power,
                "question": "How long is it?",
                "options": eleven,
                "answer": "K",
                "qa_type": "Concept Comprehension",
            }
            | chosen
            | url
        ],
    )
    write_parquet(
        root / "Adaptation/test-00000-of-00001.parquet",
        [
            {
                "id": sugar,
                "question": "<image 1> What kind of sugar is this?",
                "options": ["aldose", "ketose"],
                "answer": "B",
                "image": picture(40),
            }
            | chosen
            | case,
            {
                "id": power,
                "question": "How many kW?",
                "options": [],
                "answer": "12.97",
                "question_type": "open",
                "image": picture(80),
            }
            | case,
            {
                "id": books,
                "question": "Which is due? <image 1>",
                "options": ["$1", "$2", "$3"],
                "answer": "C",
                "question_type": "None",
                "image": picture(120),
            }
            | case,
        ],
    )
    write_clips(root, f"Science/{sugar}.mp4", f"Engineering/{power}.mp4", f"Business/{books}.mp4")
    return 5


def vsi(root: Path) -> int:
    kinds = [
        ("object_rel_direction_easy", ["A. left", "B. right"], "B"),
        ("object_rel_direction_medium", ["A. back", "B. left", "C. right"], "A"),
        (
            "object_rel_direction_hard",
            ["A. back-left", "B. front-left", "C. back-right", "D. front-right"],
            "D",
        ),
        ("object_rel_distance", ["A. table", "B. tv", "C. stool", "D. sofa"], "C"),
        ("route_planning", ["A. Turn Left", "B. Turn Back", "C. Turn Right"], "A"),
        ("obj_appearance_order", ["A. cup, door", "B. door, cup"], "A"),
        ("object_abs_distance", None, "2.3"),
        ("object_counting", None, "4"),
        ("object_size_estimation", None, "120"),
        ("room_size_estimation", None, "20.5"),
    ]
    sets = [("arkitscenes", "47430468"), ("scannet", "scene0011_00"), ("scannetpp", "09c1414f1b")]
    write_json(
        root / "test.jsonl",
        [
            {
                "id": 166 + 10 * i,
                "dataset": sets[i % 3][0],
                "scene_name": sets[i % 3][1],
                "question_type": kind,
                "question": f"Question {i}?",
                "ground_truth": gold,
                "options": options,
            }
            for i, (kind, options, gold) in enumerate(kinds)
        ],
    )
    write_clips(root, *[f"{folder}/{scene}.mp4" for folder, scene in sets])
    return 10


def videott(root: Path) -> int:
    """The split `test`, one of open-ended questions, and `test_all`, which repeats them."""
    shared = {
        "video_id": "sj81PWrerDk",
        "duration": "8.85",
        "youtube_url": "https://www.youtube.com/shorts/sj81PWrerDk",
    }
    chosen = {
        "question_type": "Multiple-choice Question with a Single Correct Answer",
        "question_prompt": "Please select one option.",
    } | shared
    choice = [
        chosen
        | {
            "qid": "0008-7",
            "capability": "Plot Attribute (Montage)",
            "answer": "B",
            "question": "What is the trick?\nA. A cut.\nB. A mirror.\nC. A twin.\nD. A stunt.",
        },
        chosen
        | {
            "qid": "0009-7",
            "capability": "Element Counting",
            "answer": "E",
            "question": "How many?\nA. 2\nB. 3\nC. 4\nD. 5\nE. 6",
            "video_id": "a-b_C",
        },
    ]
    first = [
        shared
        | {
            "qid": "0008-0",
            "question_type": "Primary Open-ended Question",
            "capability": "Plot Attribute (Montage)",
            "question": "How is it done?",
            "question_prompt": "Please state your answer with a brief explanation.",
            "answer": "By a mirror, as her watch is on the other arm.",
        }
    ]
    for split, records in (
        ("test", choice),
        ("test_no_leading_oe", first),
        ("test_all", [*first, *choice]),
    ):
        write_parquet(root / f"data/{split}-00000-of-00001.parquet", records)
    write_clips(root, "Benchmark-AllVideos-LQ/sj81PWrerDk.mp4", "Benchmark-AllVideos-LQ/a-b_C.MP4")
    return 3


LAYOUTS = {
    "mvbench": mvbench,
    "videomme": videomme,
    "lvbench": lvbench,
    "videoholmes": videoholmes,
    "mmvu": mmvu,
    "tomato": tomato,
    "videommmu": videommmu,
    "vsi": vsi,
    "videott": videott,
}
