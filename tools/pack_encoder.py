"""Make a trained encoder ready to be given away: half precision, and how it came about.

    python tools/pack_encoder.py --workdir DIR --out FILE.npz --command "python -m lsap_jax.train ..." [--note TEXT ...]

DIR is that of `python -m lsap_jax.train`. The file holds the best encoder as float16 and, in its description, the
configuration, the command, the curves of training (thinned) and evaluation, and notes such as data and machine.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from lsap_jax.checkpoints import store
from lsap_jax.errors import LsapError
from lsap_jax.networks import encoder_files

POINTS = 50  # of each training curve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of the training run")
    parser.add_argument("--out", required=True, metavar="FILE.npz")
    parser.add_argument("--command", required=True, help="that made it")
    parser.add_argument("--note", nargs="*", default=[], help="lines on data, machine, licence")
    flags = parser.parse_args(argv)
    try:
        pack(pathlib.Path(flags.workdir), pathlib.Path(flags.out), flags.command, flags.note)
    except LsapError as error:
        print(f"pack_encoder: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"pack_encoder: {error.filename} is missing: --workdir is that of a training run", file=sys.stderr)
        return 1
    return 0


def pack(workdir: pathlib.Path, out: pathlib.Path, command: str, notes: Sequence[str]) -> None:
    """Write `out` from a training run's folder.

    Raises:
      CheckpointError: if the run's encoder is missing or damaged.
      FileNotFoundError: if the run has no metrics.
    """
    E = encoder_files.load(workdir / "encoder.npz")
    _, meta = store.load(workdir / "encoder.npz")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    curves = {}
    for split in ("train", "eval"):
        some = [_short(line) for line in lines if line["split"] == split]
        every = max(1, len(some) // POINTS) if split == "train" else 1
        curves[split] = some[every - 1 :: every]
    about = {"config": meta["config"], "step": meta["step"], "command": command, "notes": list(notes), "curves": curves}
    encoder_files.save(out, E.replace(name=out.stem), {**about, "metrics": meta["metrics"]})
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, step {meta['step']}")


def _short(line: dict) -> dict:
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in line.items()}


if __name__ == "__main__":
    sys.exit(main())
