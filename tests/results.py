"""Results of eval.py, made up for tests of what reads them. Not a test module itself."""

import json
from pathlib import Path


def make_results(scores, videos=None, part="score", **labels) -> list[dict]:
    """A result per score; videos (each its own by default) and labels: one value, or one each."""
    results = []
    for i, score in enumerate(scores):
        result_labels = {k: v[i] if isinstance(v, list) else v for k, v in labels.items()}
        results.append(
            {
                "id": f"q{i}",
                "video": str(videos[i] if videos else i),
                "labels": result_labels,
                "parts": {part: score},
                "failure": None,
                "reason": None,
                "sound": "off",
                "tokens": 5,
                "finished": True,
                "reasoning_tokens": 0,
                "seconds": 0.1,
            }
        )
    return results


def save_results(folder: Path, scores, benchmark: str = "toy") -> Path:
    """A run's folder with results."""
    folder.mkdir(parents=True)
    with (folder / "results.jsonl").open("w") as file:
        for result in make_results(scores):
            file.write(json.dumps(result | {"benchmark": benchmark}) + "\n")
    return folder


def read_lines(out: Path) -> list[dict]:
    """The lines of a run's results.jsonl."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
