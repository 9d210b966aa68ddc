"""`python -m lsap_jax.edit`: see `lsap_jax.commands.edit`."""

import sys

from lsap_jax.commands import edit

if __name__ == "__main__":
    edit.main(sys.argv)
