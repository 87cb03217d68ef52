"""media/digest.py: a short key for what a prompt shows and plays.

The towers' features of a prompt are kept by this key (model.Features). It is made of the pixels and
the sound themselves, not of the names of their files: a copy of a prompt with masked, shuffled or
silenced media has another key and gets features of its own, while two files of the same content
have one key and share them.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

DIGEST_BYTES = 16  # two different contents share a key with a probability of 2^-128


class TensorDigest(NamedTuple):
    """The digest of a tensor's content, and the version of the tensor that it was made of."""

    version: int
    digest: bytes


# Hashing reads every byte, so each tensor is hashed once. Weak: a digest goes when its tensor does.
_KNOWN_DIGESTS = WeakTensorKeyDictionary()


def tensor_digest(tensor: Tensor) -> bytes:
    """Digest of dtype, shape and bytes of a tensor.

    PyTorch counts a tensor's in-place edits in `_version`, so an edited tensor is hashed anew.
    subtle: edits behind PyTorch's back (through `tensor.data`, or through a NumPy array of the same
    memory) are not counted.

    >>> pixels = torch.zeros(2, 3)
    >>> before = tensor_digest(pixels)
    >>> pixels[0] = 1.0
    >>> tensor_digest(pixels) == before, tensor_digest(torch.zeros(2, 3)) == before
    (False, True)
    >>> tensor_digest(torch.zeros(3, 2)) == before
    False
    """
    # Tensors made under torch.inference_mode count no edits: nothing can be remembered of them.
    version = None if tensor.is_inference() else tensor._version
    known = _KNOWN_DIGESTS.get(tensor)
    if known is not None and known.version == version:
        return known.digest

    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # NumPy has no bf16
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hasher.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    hasher.update(content.numpy())
    digest = hasher.digest()

    if version is not None:
        _KNOWN_DIGESTS[tensor] = TensorDigest(version, digest)
    return digest


def media_digest(prompt) -> str:
    """Key (hexadecimal) of all that the towers read of a prompt (`data.Prompt`): its patches, their
    grids, and its mels, in order. Prompts of text alone share one key.
    """
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hasher.update(f"grids {[tuple(grid) for grid in prompt.grids]} ".encode())
    if prompt.patches is not None:
        hasher.update(b"patches " + tensor_digest(prompt.patches))
    for mel in prompt.mels:
        hasher.update(b"mel " + tensor_digest(mel))
    return hasher.hexdigest()
