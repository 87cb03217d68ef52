"""formats/messages.py: AVATAR's and ms-swift's GRPO records: chat messages.

    {"messages": [{"role": "system", "content": "Think first."},
                  {"role": "user", "content": "<video>How many knocks?"}],
     "videos": ["v/a.mp4"], "solution": "<answer>3</answer>", "problem_type": "numerical"}

`hint` and `audio_cues` (a caption of the sound) may come with it, and `options`.
"""

from os.path import normpath

from formats.fields import (
    answer_field,
    brief,
    gold_answer,
    list_field,
    paths_field,
    text_field,
)
from formats.sample import MEDIA_KINDS, DataError

# ms-swift's order for media that the text does not mention.
FRONT_ORDER = ("video", "audio", "image")


def messages_record(record: dict, where: str) -> dict:
    """A record of AVATAR's or ms-swift's JSONL -> Sample's arguments.

    The system turn is dropped: it holds the released trainer's think / answer instruction, and our
    prompt carries its own. A last assistant turn is the trace, and holds the answer where there is
    no `solution`. An audio is always an item of its own here, never a video's sound track.
    """
    user, trace = read_turns(record["messages"], where)
    question = text_field(user, "content", where)
    options = list_field(record.get("options"), "options", where, numbers=True)
    media = {}
    for kind in MEDIA_KINDS:
        paths = paths_field(record.get(f"{kind}s"), kind, f"{kind}s", where)
        media[f"{kind}s"] = [normpath(path) for path in paths]

    # Media without a placeholder get one at the front.
    text = "\n".join([question, *options])
    front = ""
    for kind in FRONT_ORDER:
        front += f"<{kind}>" * (len(media[f"{kind}s"]) - text.count(f"<{kind}>"))

    if trace and record.get("solution") is None:
        answer = gold_answer(trace, "solution", where)
    else:
        answer = answer_field(record, "solution", where)

    return {
        "question": front + question,
        "problem_type": text_field(record, "problem_type", where),
        "answer": answer,
        "options": options,
        "hint": " ".join(list_field(record.get("hint"), "hint", where)).strip(),
        "audio_caption": text_field(record, "audio_cues", where, required=False).strip(),
        "trace": trace,
        **media,
    }


def read_turns(turns, where: str) -> tuple[dict, str]:
    """The user turn of a dialogue and the trace, the text of its assistant turn ("": none).

    Raises DataError for a dialogue of several user turns.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{where}: field 'messages' must be a list of objects with 'role' and 'content'; "
            "mend it, or remove the record"
        )
    turns = [turn for turn in turns if turn.get("role") != "system"]

    # what an assistant says last is the completion to imitate
    trace = ""
    if turns and turns[-1].get("role") == "assistant":
        trace = text_field(turns.pop(), "content", where, required=False).strip()

    # in a dialogue of several turns no one reply could be rewarded by one gold answer
    roles = [turn.get("role") for turn in turns[:9]]
    if roles != ["user"]:
        raise DataError(
            f"{where}: field 'messages' must hold one user turn, with at most a system turn before "
            f"and an assistant turn after it; got {brief(roles) if roles else 'none'}; "
            "make single prompts of the dialogue"
        )
    return turns[0], trace
