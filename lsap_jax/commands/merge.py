"""The `merge` command: check that every part of a sharded set is there, and join their manifests.

    python -m lsap_jax.merge OUT

Says what is missing, and how to make it. The invert command does the same by itself after the last part.
"""

import sys
from collections.abc import Sequence

from absl import flags

from lsap_jax.data import merge, shards
from lsap_jax.errors import LsapError


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.merge`."""
    values = flags.FlagValues()
    flags.DEFINE_bool("verify", True, "compare the checksum of every shard", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    try:
        folders = values(list(argv))[1:]
        if values.help:
            print(f"{__doc__}\n{values.get_help()}")
            return
        if len(folders) != 1:
            raise flags.Error("give one results folder: python -m lsap_jax.merge OUT")
        total = merge.merge(folders[0], values.verify)
    except (LsapError, flags.Error) as error:
        sys.exit(f"lsap_jax: {error}")
    print(f"{total['images']} images, {total['failures']} left out: {folders[0]}/{shards.MANIFEST}")
