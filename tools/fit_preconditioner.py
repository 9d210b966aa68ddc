"""Fit the preconditioner of `ffhq-mobile` (lsap_jax/embed/preconditioner.py).

    python tools/fit_preconditioner.py --out lsap_jax/embed/preconditioner_ffhq_mobile.npz

Other generators need no such file: theirs is fitted at first use, from fewer probes, and cached. A probe takes about
1.2 seconds on two cores.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax

from lsap_jax.embed import preconditioner
from lsap_jax.errors import LsapError
from lsap_jax.pretrained import ASSETS, load_generator


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="where to write it")
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)

    def progress(done):
        if done % 50 == 0:
            print(f"{done} of {flags.probes} probes", flush=True)

    try:
        G = load_generator("ffhq-mobile")
        matrix = preconditioner.curvature(G, flags.probes, flags.seed, progress)
        tree = jax.device_get(preconditioner.decompose(matrix))
        name = pathlib.Path(flags.out).name
        command = f"python tools/fit_preconditioner.py --out {name} --probes {flags.probes} --seed {flags.seed}"
        licence = f"fitted to the outputs of ffhq-mobile: {ASSETS['ffhq-mobile'].licence}"
        preconditioner.save(flags.out, G, tree, {"command": command, "licence": licence})
    except LsapError as error:
        print(f"fit_preconditioner: {error}", file=sys.stderr)
        return 1
    print(f"{flags.out}: {pathlib.Path(flags.out).stat().st_size / 1e3:.0f} kB, for {G.name} ({G.fingerprint})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
