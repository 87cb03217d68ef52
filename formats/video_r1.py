"""formats/video_r1.py: records of Video-R1, EchoInk's AVQA-R1 and HumanOmniV2's IntentTrain.

    {"problem_id": 7, "problem": "What falls?", "data_type": "video", "path": "./clips/x.mp4",
     "problem_type": "multiple choice", "options": ["A. cup", "B. ball"],
     "solution": "<answer>B</answer>"}

Video-R1-COT adds `process`, the text of a <think> block. In AVQA-R1 the path is an object,
{"image": .., "audio": ..}. Some files of IntentTrain say `video` and `answer` in place of `path`
and `solution`.
"""

import re
from os.path import normpath

from formats.fields import assign_soundtrack, gold_answer, list_field, text_field
from formats.sample import MEDIA_KINDS, DataError


def problem_record(record: dict, where: str) -> dict:
    """A record of Video-R1, AVQA-R1 or IntentTrain -> Sample's arguments.

    The trace of stage 0 is `process` or the think block of the solution, then the answer block.
    IntentTrain's <context> block is left out, for the format reward wants think, then answer.
    """
    paths = read_paths(record, where)
    media = {}
    for kind in MEDIA_KINDS:
        media[f"{kind}s"] = [normpath(p) for p in list_field(paths.get(kind), "path", where)]

    # some files of IntentTrain have the answer in a field of its own
    name = "answer" if "solution" not in record and "answer" in record else "solution"
    solution = text_field(record, name, where)
    answer = gold_answer(solution, name, where)

    # the reasoning, from which the trace of stage 0 is made
    think = text_field(record, "process", where, required=False).strip()
    if not think:
        match = re.search(r"<think>.*?</think>", solution, re.DOTALL)
        think = match[0] if match else ""

    return assign_soundtrack(
        {
            "question": text_field(record, "problem", where),
            "problem_type": text_field(record, "problem_type", where),
            "answer": answer,
            "options": list_field(record.get("options"), "options", where),
            "trace": f"{think}\n<answer>{answer}</answer>" if think else "",
            **media,
        }
    )


def read_paths(record: dict, where: str) -> dict:
    """The record's media: a path or a list of paths, by kind."""
    path = record.get("path")
    kind = str(record.get("data_type"))
    if not path and record.get("video"):  # some files of IntentTrain
        path = record["video"]
        kind = "video"
    paths = path if isinstance(path, dict) else {kind: path}
    if not any(paths.values()) or set(paths) - set(MEDIA_KINDS):
        raise DataError(
            f"{where}: field 'path' must be a file's path beside a 'data_type' of video, image or "
            "audio, or an object of such paths by kind, as {'image': .., 'audio': ..}; "
            f"got {path!r} and {kind!r}"
        )
    return paths
