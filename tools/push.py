"""tools/push.py: upload a checkpoint to the Hugging Face hub.

    # says what it would do; does it
    python -m tools.push runs/stage2-avatar-seed0/checkpoint USER/NAME
    python -m tools.push runs/stage2-avatar-seed0/checkpoint USER/NAME --upload

The model goes, with its card (README.md: look at it first, above all at its licence) and its
adapter; `trainer/`, which is for going on with the run, stays here. The token is that of
`hf auth login` or HF_TOKEN.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from engine.adapter_folder import is_adapter_folder
from engine.checksums import check_model_files
from engine.run_folder import check_no_run
from formats.sample import DataError, first_line
from run.session import ends_in_a_sentence

LEFT_OUT = "trainer"  # subfolder: optimiser, buffer, random states


def files_of(checkpoint: Path) -> list[Path]:
    """The files that are uploaded. Raises DataError where the folder holds no model, or a damaged
    one."""
    is_model = (checkpoint / "config.json").is_file() or is_adapter_folder(checkpoint)
    if not is_model:
        raise DataError(f"{checkpoint}: holds no model; pass a run's checkpoint or its adapter")
    check_model_files(checkpoint)
    files = []
    for path in sorted(checkpoint.rglob("*")):
        inside = path.relative_to(checkpoint)
        if path.is_file() and inside.parts[0] != LEFT_OUT:
            files.append(path)
    return files


def push(checkpoint: Path, name: str, private: bool, upload: bool, api: HfApi | None = None) -> str:
    """Upload a checkpoint, or say what would be. Returns what is to be printed.

    Raises DataError for the folder of a run.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(f"{name}: not a name of the hub; write USER/NAME")
    check_no_run(checkpoint)  # whose logs, with what the model has written, are for nobody else
    # a run's `checkpoint` is a link that may move on; one to itself leads to no model
    checkpoint = Path(os.path.realpath(checkpoint))
    files = files_of(checkpoint)
    lines = [f"{path.relative_to(checkpoint)}  {path.stat().st_size:,} bytes" for path in files]
    if not upload:
        return "\n".join([*lines, f"would go to {name}; pass --upload to do it"])

    api = api or HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=str(checkpoint),
            ignore_patterns=[f"{LEFT_OUT}/*"],
            commit_message=f"Checkpoint {checkpoint.name}",
        )
    except (HfHubHTTPError, OSError) as error:
        raise DataError(
            f"{name}: the hub refused the upload ({first_line(error)}); log in by `hf auth "
            "login`, and check the name and your rights"
        ) from None
    return "\n".join([*lines, f"uploaded to https://huggingface.co/{name}"])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a run's checkpoint, or its adapter folder")
    parser.add_argument("name", help="USER/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--upload", action="store_true", help="upload; without it nothing is sent")
    args = parser.parse_args(argv)
    print(push(args.checkpoint, args.name, args.private, args.upload))


if __name__ == "__main__":
    ends_in_a_sentence(main, sys.argv[1:])
