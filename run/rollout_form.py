"""run/rollout_form.py: is a line of rollouts.jsonl.gz what run/rollouts.py has written?

A file that was changed by hand may hold anything. What is read of a line is checked here, by one
table per kind of line: {field: what its value must be}. Other fields may stand there, too.
"""

from run.metrics import is_drawable, is_step


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_truth(value: object) -> bool:
    return isinstance(value, bool)


def is_text_or_null(value: object) -> bool:
    return value is None or is_text(value)


def is_number_or_null(value: object) -> bool:
    return value is None or is_drawable(value)


def are_texts(value: object) -> bool:
    """Is this a list of texts?"""
    return isinstance(value, list) and all(map(is_text, value))


def are_numbers(value: object) -> bool:
    """Is this a list of numbers?"""
    return isinstance(value, list) and all(map(is_drawable, value))


def are_scores(value: object) -> bool:
    """Is this a number, or null, by name?"""
    return isinstance(value, dict) and all(map(is_number_or_null, value.values()))


def are_media(value: object) -> bool:
    """Is this a list of [kind, path]?"""
    return isinstance(value, list) and all(are_texts(pair) and len(pair) == 2 for pair in value)


def are_prompts(value: object) -> bool:
    """Is this a prompt by id?"""
    return isinstance(value, dict) and all(fits(prompt, PROMPT) for prompt in value.values())


def is_buffer(value: object) -> bool:
    """Is this [tier, Rbar(q), is its hint on?] by id?"""
    return isinstance(value, dict) and all(map(is_stored, value.values()))


def is_stored(value: object) -> bool:
    """Is this the state of a stored prompt?"""
    return isinstance(value, list) and len(value) == 3 and is_text(value[0]) and value[0] != ""


HEADER = {
    "step": is_step,
    "generated": is_drawable,
    "prompts": are_prompts,
    "buffer": is_buffer,
}
PROMPT = {
    "question": is_text,
    "options": are_texts,
    "media": are_media,
}
COMPLETION = {
    "step": is_step,
    "update": is_drawable,
    "id": is_text,
    "replayed": is_truth,
    "hinted": is_truth,
    "written": is_drawable,
    "tier": is_text_or_null,
    "vcrs": is_number_or_null,
    "reward": is_drawable,
    "scores": are_scores,
    "advantage": is_drawable,
    "ratio_mean": is_number_or_null,
    "ratio_max": is_number_or_null,
    "tokens": are_texts,
    "logps": are_numbers,
}
COMPUTED = ("logps_now", "entropy", "weights")  # of each token; null where it was not computed
NEWER = ("hint_term",)  # as these; files of older versions lack it


def fits(value: object, form: dict) -> bool:
    """Is this an object with the fields of a table?"""
    if not isinstance(value, dict):
        return False
    return all(name in value and is_right(value[name]) for name, is_right in form.items())


def is_completion(line: dict, prompts: dict[str, dict]) -> bool:
    """Is this a completion of one of these prompts, with a number for each of its tokens?"""
    if not fits(line, COMPLETION) or line["id"] not in prompts:
        return False
    by_token = [line.get(name) for name in COMPUTED]
    by_token += [line[name] for name in NEWER if name in line]
    n = len(line["tokens"])
    if all(values is None for values in by_token):
        return len(line["logps"]) == n
    return all(are_numbers(values) and len(values) == n for values in (line["logps"], *by_token))
