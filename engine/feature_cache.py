"""engine/feature_cache.py: outputs of frozen towers, kept in the host's memory across steps."""

from collections import OrderedDict

from torch import Tensor


class FeatureCache:
    """Tower outputs by the digest of their media (media/digest.py): at most `max_bytes`, and what
    was not used for the longest time goes first. Only valid while the towers are frozen."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.bytes = 0
        self.outputs: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def get(self, digest: str) -> dict[str, Tensor] | None:
        """The output on the CPU, or None. It counts as used now."""
        if digest in self.outputs:
            self.outputs.move_to_end(digest)
        return self.outputs.get(digest)

    def put(self, digest: str, output: dict[str, Tensor]) -> None:
        """Keep an output, in place of those that were not used for the longest time."""
        size = sum(tensor.nbytes for tensor in output.values())
        # What would push out all others and still not fit is not kept at all.
        if digest in self.outputs or size > self.max_bytes:
            return

        # A copy, on a CPU too: there an output is a view of the outputs of its whole batch, and to
        # keep the view would keep them all.
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in output.items()}
        self.outputs[digest] = copies
        self.bytes += size

        # an OrderedDict begins with what was not used for the longest time
        while self.bytes > self.max_bytes:
            _, oldest = self.outputs.popitem(last=False)
            self.bytes -= sum(tensor.nbytes for tensor in oldest.values())
