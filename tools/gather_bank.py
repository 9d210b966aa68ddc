"""Make one bank of directions from the results of several `discover` runs.

    python tools/gather_bank.py --out BANK.npz --take RUN1#smile RUN2#mouth0=mouth-open RUN3#-pca3=age ...
        [--note TEXT ...]

RUN is a folder of `python -m lsap_jax.discover`. `=NAME` renames, `#-NAME` turns the direction round. Every direction
keeps its statistics, and the settings and measures of its run go into the bank's description.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from lsap_jax.edit import directions
from lsap_jax.edit.directions import Direction
from lsap_jax.errors import DirectionError, LsapError

_TAKE = re.compile(r"(?P<run>.+)#(?P<turned>-?)(?P<name>[^#=]+)(?:=(?P<new>[\w-]+))?")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="BANK.npz")
    parser.add_argument("--take", nargs="+", required=True, metavar="RUN#NAME")
    parser.add_argument("--note", nargs="*", default=[], help="lines on data, machine, licence")
    flags = parser.parse_args(argv)
    try:
        taken = [take(spec) for spec in flags.take]
        found, about = [d for d, _ in taken], {d.name: record for d, record in taken}
        if len(about) < len(found):
            raise DirectionError("two directions of one name: rename one of them by =NAME")
        if len({d.fingerprint for d in found}) > 1:
            raise DirectionError("these directions are of different generators: make a bank for each")
        directions.save_bank(flags.out, found, {"notes": flags.note, "found_by": about})
    except (LsapError, OSError) as error:
        print(f"gather_bank: {error}", file=sys.stderr)
        return 1
    print(f"{flags.out}: {', '.join(about)}")
    return 0


def take(spec: str) -> tuple[Direction, dict[str, Any]]:
    """One direction, and how it was found.

    Raises:
      DirectionError: if the words are not understood, or the run has no such direction.
      CheckpointError: if its bank is damaged.
    """
    match = _TAKE.fullmatch(spec)
    if match is None:
        raise DirectionError(f"{spec!r}: write RUN#NAME, RUN#-NAME or RUN#NAME=NEW")
    folder = pathlib.Path(match["run"])
    d = directions.load_direction(folder / "directions.npz", component=match["name"], force=True)
    try:
        run = json.loads((folder / "bank.json").read_text())
    except (OSError, ValueError) as error:
        raise DirectionError(f"{folder / 'bank.json'}: missing or damaged ({error}): run discover again") from error
    if match["turned"]:
        d = d.replace(vector=-d.vector)
    settings = {k: v for k, v in run["settings"].items() if k not in ("out", "inversions", "show")}
    measures = next(entry["measures"] for entry in run["directions"] if entry["name"] == match["name"])
    return d.replace(name=match["new"] or match["name"]), {"settings": settings, "measures": measures}


if __name__ == "__main__":
    sys.exit(main())
