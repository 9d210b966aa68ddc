"""Render a generator's own samples once, as training data for encoders.

    python tools/render_samples.py --generator ffhq-mobile --out DIR --count 50000 [--resolution 128] [--seed 0]
        [--batch 16] [--truncation 0.7:1.0] [--mixing 0.3] [--exact]

Writes shards of 1,000 samples (lsap_jax/data/samples.py); a 128-pixel set takes 65 kB a sample. The same command goes
on where a killed one stopped, and with a larger --count makes the set longer. Another --seed gives other samples, for
evaluation. By default the generator renders as small as it can; --exact renders at full size and takes area means.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import lsap_jax as lj
from lsap_jax.data import samples
from lsap_jax.errors import LsapError
from lsap_jax.generators import previews


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", required=True, help="name of a pretrained generator, or a path")
    parser.add_argument("--out", required=True, help="folder for the shards")
    parser.add_argument("--count", type=int, required=True, help="samples in all")
    parser.add_argument("--resolution", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="samples rendered together")
    parser.add_argument("--truncation", type=_span, default=(0.7, 1.0), help="psi, drawn from LOW:HIGH")
    parser.add_argument("--mixing", type=float, default=0.3, help="probability of style mixing")
    parser.add_argument("--exact", action="store_true", help="full render, then area means")
    parser.add_argument(
        "--previews", action="store_true", help="use the shipped preview heads: three times as fast, less sharp"
    )
    flags = parser.parse_args(argv)
    try:
        settings = samples.Settings(flags.truncation, flags.mixing)
        G = lj.load_generator(flags.generator)
        if flags.previews:
            G = previews.attach(G)
        counts = samples.write(
            G, flags.out, flags.count, flags.resolution, flags.seed, settings, flags.batch, flags.exact
        )
        _report(counts, flags.count)
    except LsapError as error:
        print(f"render_samples: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with the first unfinished shard", file=sys.stderr)
        return 130
    print(f"{flags.count} samples in {flags.out}")
    return 0


def _report(counts, total: int) -> None:
    """Follow the counts: one line that is rewritten on a terminal, one a minute otherwise."""
    terminal = sys.stderr.isatty()
    first = next(counts)
    if first:
        print(f"{first} samples are there already", file=sys.stderr)
    start = last = time.monotonic()
    before = None  # the first batch compiles, so it is left out of the rate
    for done in counts:
        now = time.monotonic()
        if before is None:
            before, start = done, now
            continue
        if now - last < (1 if terminal else 60) and done < total:
            continue
        last, rate = now, (done - before) / max(now - start, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        line = f"{done} of {total} samples, {rate:.1f} a second, {left / 60:.0f} min left"
        print(f"\r{line}   " if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
    if terminal:
        print(file=sys.stderr)


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    return float(low), float(high or low)


if __name__ == "__main__":
    sys.exit(main())
