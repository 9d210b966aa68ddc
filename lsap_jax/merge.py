"""`python -m lsap_jax.merge`."""

import sys

from lsap_jax.commands import merge

if __name__ == "__main__":
    merge.main(sys.argv)
