"""What kind of file this is, by its content: extensions of weight files mean nothing (`.pt`, `.pth`, `.pkl`)."""

import re

from lsap_jax.checkpoints.archive import Archive
from lsap_jax.errors import CheckpointError

_MAGIC_NUMBER = bytes.fromhex("6cfc9c46f9206aa85019")  # first in PyTorch files before 1.6, as a pickled integer
_PICKLE = re.compile(rb"\x80[\x00-\x05]|[(](dp|lp)|[}\]]q|c(numpy|collections|_codecs|copy_?reg)\b")

# What the kinds are called in messages.
KINDS = {
    "torch-zip": "a PyTorch file",
    "torch-legacy": "a PyTorch file of the format before 1.6",
    "torch-tar": "a PyTorch file of the format before 0.1.10",
    "nvidia": "an NVIDIA network pickle",
    "npz": "an .npz archive",
    "npy": "an .npy array",
    "pickle": "a plain pickle",
    "zip": "a zip archive of something else",
    "unknown": "of an unknown kind",
}


def kind(data: bytes, name: str) -> str:
    """One of `KINDS`.

    Args:
      data: the whole file.
      name: what messages call it.

    Raises:
      CheckpointError: if it is no weight file at all but what a failed download leaves behind (a web page, a Git LFS
        pointer, nothing), or a truncated zip archive.
    """
    head = data[:4096]
    if not head:
        raise CheckpointError(f"{name}: the file is empty; download it again")
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body|script|\?xml|!--)", head, re.IGNORECASE):
        raise CheckpointError(
            f"{name}: this is a web page saved under the name of a weight file (a dead download link, a quota page "
            "or a sign-in page). Open the link in a browser, download the file itself, and check its size"
        )
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError(f"{name}: this is a Git LFS pointer, not the file; run `git lfs pull` where it came from")
    if head.startswith(b"PK\x03\x04"):
        records = list(Archive(data, name))
        if any(record == "data.pkl" or record.endswith("/data.pkl") for record in records):
            return "torch-zip"
        return "npz" if records and all(record.endswith(".npy") for record in records) else "zip"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[257:262] == b"ustar":
        return "torch-tar"
    if _MAGIC_NUMBER in head[:32] or head.startswith(b"L119547037146038801333356L"):
        return "torch-legacy"
    if _PICKLE.match(head):
        return "nvidia" if b"torch_utils.persistence" in data or b"dnnlib.tflib" in data else "pickle"
    return "unknown"
