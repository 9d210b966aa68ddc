"""The generator's Jacobian: exact and sketched, in forward passes; and what a new region costs on a stored one.

    python benchmarks/jacobian.py [--generator ffhq-mobile] [--grid 256] [--block 64] [--region mouth]

The unit is one forward pass, one image at full size with its area mean to the grid, timed before, between and after in
the same run. Prints one JSON line: columns in forward passes and peak memory of the exact Jacobian; the same of the
sketch of the region's leading subspace, with the cosines of its first ten eigenvectors to the exact subspace of ten;
seconds of `rayleigh` and `rpca` on the stored Jacobian, Gram matrices included.
"""

import argparse
import statistics
import time

import jax
import numpy as np
from timing import emit, machine, peak_memory

import lsap_jax as lj
from lsap_jax.data import resize
from lsap_jax.edit import jacobian, low_rank, regions

LEADING = 10


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default="ffhq-mobile")
    parser.add_argument("--grid", type=int, default=256)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--samples", type=int, default=44, help="of the sketch")
    parser.add_argument("--region", default="mouth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=10, help="forward passes at each of the three times")
    flags = parser.parse_args()
    G = lj.load_generator(flags.generator)
    ws = G.broadcast(G.map(jax.random.normal(jax.random.key(flags.seed), (1, G.z_dim))))
    forward = jax.jit(lambda G, ws: resize.area(G.synthesize(ws), flags.grid))
    jax.block_until_ready(forward(G, ws))
    region = regions.parse(flags.region, flags.grid)
    # Compile everything before anything is timed.
    list(zip(range(1), jacobian.columns(G, ws[0], grid=flags.grid, block=flags.block), strict=False))
    jacobian.leading(G, ws[0], region, 1, samples=flags.samples)
    passes = []

    def rest():
        for _ in range(flags.repeats):
            passes.append(_seconds(lambda: jax.block_until_ready(forward(G, ws)))[0])

    rest()
    exact, J = _seconds(lambda: jacobian.jacobian(G, ws[0], grid=flags.grid, block=flags.block, keep=False))
    memory = peak_memory()
    rest()
    sketch, (_, vectors) = _seconds(
        lambda: jacobian.leading(G, ws[0], region, LEADING, samples=flags.samples, seed=flags.seed)
    )
    rest()
    unit = {"min": min(passes), "median": statistics.median(passes)}
    subspace = low_rank.axes_of(J.gram(region), rank=LEADING)
    solvers = {
        solver: round(_seconds(lambda solver=solver: low_rank.region_directions(G, J, region, solver))[0], 2)
        for solver in ("rayleigh", "rpca")
    }
    emit(
        {
            "benchmark": "jacobian",
            "generator": flags.generator,
            "grid": flags.grid,
            "columns": J.columns,
            "forward_s": {k: round(v, 4) for k, v in unit.items()},
            "exact_s": round(exact, 1),
            "exact_forward_passes": {k: round(exact / v, 1) for k, v in unit.items()},
            "exact_per_column": {k: round(exact / v / J.columns, 3) for k, v in unit.items()},
            "peak_memory_gib": round(memory, 2),
            "sketch_s": round(sketch, 1),
            "sketch_forward_passes": {k: round(sketch / v, 1) for k, v in unit.items()},
            "sketch_cosines": np.linalg.norm(vectors @ subspace.T, axis=1).round(4).tolist(),
            "new_region_s": solvers,
            **machine(),
        }
    )


def _seconds(fn):
    start = time.perf_counter()
    result = fn()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
