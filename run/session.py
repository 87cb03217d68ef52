"""run/session.py: one run per folder, one sentence per error."""

import contextlib
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from engine.distributed import gather, lost_contact, name_rank
from formats.sample import DataError


@contextlib.contextmanager
def only_run(out: Path, rank: int, patience: float = 30.0):
    """Within, this is the only run that writes into a folder; all of its processes enter together. Raises DataError on rank 0 when another one still does after
    `patience` seconds (it may have been told to stop, and be saving). The system gives the folder free when a run ends, however it ends."""
    if rank:
        gather(None)
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    file.seek(0)
                    raise DataError(
                        f"{out}: another run writes here ({file.read()}); stop that one, or pass another --out"
                    ) from None
                time.sleep(0.2)
            except OSError as error:
                print(
                    f"{out}: this file system cannot be locked ({error}); see to it that no other run writes here",
                    file=sys.stderr,
                )
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        gather(None)
        yield


def ends_in_a_sentence(main, argv: list[str]) -> None:
    """Run main(argv) and end the program with one sentence for bad input, a full GPU and a lost process; other errors keep their traceback."""
    try:
        main(argv)
    except DataError as error:
        raise SystemExit(f"error: {name_rank()}{error}") from None
    except torch.OutOfMemoryError as error:
        raise SystemExit(
            f"error: {name_rank()}out of GPU memory: {str(error).split('. ')[0][:160]}; lower --max_tokens, --max_cache_tokens, --max_frames or "
            "--max_pixels"
        ) from None
    except (dist.DistError, RuntimeError) as error:
        if not lost_contact(error):
            raise
        raise SystemExit(
            f"error: {name_rank()}another process has died or has not come within --timeout, so this one ends, too; why, is in the "
            f"output of the process that ended first ({str(error).splitlines()[0][:160]})"
        ) from None
    if dist.is_initialized():
        dist.destroy_process_group()
