"""`python -m lsap_jax.discover`: see `lsap_jax.commands.discover`."""

import sys

from lsap_jax.commands import discover

if __name__ == "__main__":
    discover.main(sys.argv)
