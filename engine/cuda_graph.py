"""engine/cuda_graph.py: run a function of fixed shapes as a CUDA graph.

A decode step is some thousand small kernels, and to launch each from Python takes longer than to
run it. A graph is recorded once and launches them all in one call. What it asks of the function:

 1. Shapes must not depend on values, and no value may be read back to the CPU (.item(), .tolist(),
    `if tensor`): the CPU is not there when the graph runs.
 2. What the next call reads must be written in place: a replay works on the recorded addresses.
 3. Every kernel must have been loaded before the recording, so the function runs once as written.
"""

from collections.abc import Callable
from functools import partial

import torch

CUDA_GRAPH = {"cpu": False, "cuda": True}  # by the type of device


class Replayed:
    """Calls function(width), or replays what it did when called with the same shape before.

    The first call of a shape runs as written, the second is recorded and replayed, all later ones
    are replayed. Only the recording of the last shape is held. generator: the one that the function
    draws from.
    """

    def __init__(self, function: Callable[[int], None], generator: torch.Generator | None):
        self.function = function
        self.generator = generator
        self.shape: tuple[int, int] | None = None  # (n, width) of the last call
        self.replay: Callable[[], None] | None = None  # the recording of this shape

    def __call__(self, n: int, width: int) -> None:
        """Run function(width). n: how many completions its buffers hold.

        trap: a recording works on the buffers of its time. A caller that replaces them must come
        with another (n, width), else the old buffers are read and written.
        """
        # as written: a first run loads the kernels of this shape
        if (n, width) != self.shape:
            self.function(width)
            self.shape = (n, width)
            self.replay = None
            return

        if self.replay is None:
            self.replay = record(partial(self.function, width), self.generator)
        self.replay()


def record(function: Callable[[], None], generator: torch.Generator | None) -> Callable[[], None]:
    """Record function() as a CUDA graph, without running it. Returns what runs it."""
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)  # or each replay would draw the same numbers
    with torch.cuda.graph(graph):
        function()
    return graph.replay
