"""run/machine.py: what numbers depend on beside the flags: versions, and the machine."""

import os
import platform
import sys

import numpy as np
import torch
import transformers


def versions() -> dict[str, str]:
    """Versions, and the device by name."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
    }


def describe_machine(processes: int) -> dict[str, str]:
    """For machine.json of a run: its command, versions, device and processes."""
    return {
        "command": " ".join(["python", *sys.argv]),
        **versions(),
        "cores": str(os.cpu_count()),
        "processes": str(processes),
    }
