"""The `merge` command: check that every part of a sharded set is there, and join their manifests.

    python -m lsap_jax.merge OUT

Says what is missing, and how to make it. The invert command does the same by itself after the last part.
"""

from collections.abc import Sequence

from absl import flags

from lsap_jax.commands import command_line
from lsap_jax.data import merge, shards


def main(argv: Sequence[str]) -> None:
    """Entry of `python -m lsap_jax.merge`."""
    values = flags.FlagValues()
    flags.DEFINE_bool("verify", True, "compare the checksum of every shard", flag_values=values)
    with command_line.ends_in_one_line("the same command does it again"):
        folders = command_line.parse_own(values, argv, __doc__)
        if len(folders) != 1:
            raise flags.Error("give one results folder: python -m lsap_jax.merge OUT")
        total = merge.merge(folders[0], values.verify)
        print(f"{total['images']} images, {total['failures']} left out: {folders[0]}/{shards.MANIFEST}")
