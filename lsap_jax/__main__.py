"""`lsap NAME ...` and `python -m lsap_jax NAME ...`: the commands by one name."""

import runpy
import sys

COMMANDS = {
    "invert": "find the codes of photos",
    "merge": "check and join the parts of a big inverted set",
    "edit": "change inverted photos along directions",
    "discover": "find directions to edit along",
    "train": "train an encoder",
    "weights": "list, fetch or locate pretrained weights",
}


def main() -> None:
    """Run `lsap_jax.NAME` as a program."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print("usage: lsap NAME [flags]\n" + "\n".join(f"  {n:12}{about}" for n, about in COMMANDS.items()))
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    name = sys.argv.pop(1)
    runpy.run_module(f"lsap_jax.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
