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

from collections import Counter
from pathlib import Path

from benchmarks.avodyssey import read_avodyssey
from benchmarks.base import QWEN, RELEASED, Benchmark, Item, Metric
from benchmarks.cgav import (
    CLUE_ATTRIBUTE,
    CLUE_EVENT,
    CLUE_OBJECT,
    COUNTING,
    count_score,
    read_cgav,
)
from benchmarks.dailyomni import read_dailyomni
from benchmarks.intentbench import read_intentbench
from benchmarks.lvbench import read_lvbench
from benchmarks.mmvu import mmvu_question, mmvu_verdict, read_mmvu
from benchmarks.mvbench import read_mvbench
from benchmarks.omnibench import read_omnibench
from benchmarks.tomato import read_tomato
from benchmarks.toy_world import read_toy, toy_score
from benchmarks.videoholmes import read_videoholmes
from benchmarks.videomme import read_videomme
from benchmarks.videommmu import APPLY, mmmu_score, read_videommmu
from benchmarks.videott import read_videott, videott_question, videott_verdict
from benchmarks.vsi import FRAMES, read_vsi, vsi_score
from benchmarks.worldsense import read_worldsense
from formats.sample import DataError

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
