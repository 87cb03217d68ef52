"""formats/video_r1.py: records of Video-R1, EchoInk's AVQA-R1 and HumanOmniV2's IntentTrain.

    {"problem_id": 7, "problem": "What falls?", "data_type": "video", "path": "./clips/x.mp4",
     "problem_type": "multiple choice", "options": ["A. cup", "B. ball"],
     "solution": "<answer>B</answer>"}

Video-R1-COT adds `process`, the text of a <think> block. In AVQA-R1 the path is an object,
{"image": .., "audio": ..}. Some files of IntentTrain say `video` and `answer` in place of `path`
and `solution`.
"""

from os.path import normpath

from formats.fields import (
    answer_field,
    assign_soundtrack,
    brief,
    list_field,
    paths_field,
    text_field,
)
from formats.sample import MEDIA_KINDS, DataError


def problem_record(record: dict, where: str) -> dict:
    """A record of Video-R1, AVQA-R1 or IntentTrain -> Sample's arguments.

    The trace of stage 0 is `process` or the think block of the solution, then the answer block.
    IntentTrain's <context> block is left out, for the format reward wants think, then answer.
    """
    paths = read_paths(record, where)
    media = {}
    for kind in MEDIA_KINDS:
        media[f"{kind}s"] = [
            normpath(path) for path in paths_field(paths.get(kind), kind, "path", where)
        ]

    # some files of IntentTrain have the answer in a field of its own
    name = "answer" if "solution" not in record and "answer" in record else "solution"
    answer = answer_field(record, name, where)

    # the reasoning, from which the trace of stage 0 is made
    think = text_field(record, "process", where, required=False).strip()
    if not think and isinstance(record[name], str):
        think = think_block(record[name])
    in_words = ", ".join(answer.split("\n")) if isinstance(record[name], list) else answer

    return assign_soundtrack(
        {
            "question": text_field(record, "problem", where),
            "problem_type": text_field(record, "problem_type", where),
            "answer": answer,
            "options": list_field(record.get("options"), "options", where, numbers=True),
            "trace": f"{think}\n<answer>{in_words}</answer>" if think else "",
            **media,
        }
    )


def think_block(solution: str) -> str:
    """The first <think>...</think> of a solution, tags included; "" without one."""
    # plain searches: a pattern takes quadratic time where no tag is closed
    start = solution.find("<think>")
    end = solution.find("</think>", start) if start >= 0 else -1
    return solution[start : end + len("</think>")] if end >= 0 else ""


def read_paths(record: dict, where: str) -> dict:
    """The record's media: a path or a list of paths, by kind."""
    path = record.get("path")
    kind = text_field(record, "data_type", where, required=False)
    if not path and record.get("video"):  # some files of IntentTrain
        path = record["video"]
        kind = "video"
    paths = path if isinstance(path, dict) else {kind: path}
    if not any(paths.values()) or set(paths) - set(MEDIA_KINDS):
        raise DataError(
            f"{where}: field 'path' must be a file's path beside a 'data_type' of video, image or "
            "audio, or an object of such paths by kind, as {'image': .., 'audio': ..}; "
            f"got {brief(path)} and {brief(kind)}"
        )
    return paths
