"""`python -m lsap_jax.weights`: list, fetch or locate the pretrained assets."""

import sys

from lsap_jax import pretrained
from lsap_jax.errors import LsapError

USAGE = "usage: python -m lsap_jax.weights list | fetch [NAME ...] | where [NAME ...]"


def main(argv: list[str]) -> int:
    """Run one of the three; returns the exit status."""
    command, *names = argv or ["list"]
    try:
        match command:
            case "list":
                for name, asset in pretrained.ASSETS.items():
                    state = "cached" if pretrained.where(name).exists() else "not fetched"
                    print(f"{name:18} {state:12} {asset.about}\n{'':32}{asset.requirement}; licence: {asset.licence}")
            case "fetch":
                for name in names or pretrained.ASSETS:
                    print(f"{name:18} {pretrained.fetch(name)}")
            case "where":
                for name in names or pretrained.ASSETS:
                    print(f"{name:18} {pretrained.where(name)}")
            case _:
                print(USAGE, file=sys.stderr)
                return 2
    except LsapError as error:
        print(f"lsap_jax: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
