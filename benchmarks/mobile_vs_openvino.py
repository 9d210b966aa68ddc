"""MobileStyleGAN (FFHQ 1024x1024): ours against OpenVINO float32 on the CPU, and what a gradient to W+ costs.

    python -m pip install openvino && python -m pip download --no-deps random-face==2021.7.21.1
    python benchmarks/mobile_vs_openvino.py --package random_face-2021.7.21.1-py3-none-any.whl [--repeats 10]

Prints JSON lines, one a batch size: seconds of OpenVINO's forward, our forward, our forward with gradient to W+, in
turns within one run on all cores, and the largest difference of the images; then, from fresh processes without a cache
of compiled programs, our compile time and peak memory. OpenVINO has no gradients.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from timing import emit, interleave, machine, peak_memory

from lsap_jax import pretrained


@jax.jit
def forward(G, ws):
    return G.synthesize(ws)


@jax.jit
def gradient(G, ws, cotangent):
    """Image and gradient to W+ of a loss whose gradient to the image is `cotangent`."""
    image, pull = jax.vjp(G.synthesize, ws)
    return image, pull(cotangent)


def codes(G, batch):
    return G.broadcast(G.map(np.random.RandomState(0).randn(batch, G.z_dim)))


def rival(package, batch):
    """OpenVINO at float32 precision, as a function w (batch, 512) -> images (batch, 3, 1024, 1024)."""
    import openvino

    with zipfile.ZipFile(package) as wheel:
        xml, weights = (wheel.read(f"random_face/data/SynthesisNetwork.{end}") for end in ("xml", "bin"))
    core = openvino.Core()
    model = core.read_model(xml, weights)
    model.reshape({"style": [batch, 512]})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    return lambda w: compiled(w)[0]


def compare(package, batch, repeats):
    G = pretrained.load_generator("ffhq-mobile")
    ws = codes(G, batch)
    w, cotangent, infer = np.asarray(ws[:, 0]), jnp.ones((batch, 1024, 1024, 3)) / 2**20, rival(package, batch)
    difference = float(np.abs(np.asarray(forward(G, ws)) - infer(w).transpose(0, 2, 3, 1)).max())
    times = interleave(
        {
            "openvino": lambda: infer(w),
            "forward": lambda: forward(G, ws),
            "forward and gradient": lambda: gradient(G, ws, cotangent),
        },
        repeats,
    )
    ratios = {
        "forward / openvino": {k: times["forward"][k] / times["openvino"][k] for k in times["forward"]},
        "gradient / forward": {k: times["forward and gradient"][k] / times["forward"][k] for k in times["forward"]},
    }
    record = {"benchmark": "mobile vs openvino", "batch": batch, "repeats": repeats, "largest_difference": difference}
    emit({**record, "seconds": times, "ratios": ratios, **machine(["openvino"])})


def fresh(what, batch):
    """In a process of its own: seconds to compile, peak memory after two runs, and the buffers XLA plans for one."""
    G = pretrained.load_generator("ffhq-mobile")
    ws = codes(G, batch)
    args = (G, ws) if what == "forward" else (G, ws, jnp.ones((batch, 1024, 1024, 3)))
    jax.block_until_ready(args)
    before = peak_memory()
    start = time.perf_counter()
    compiled = {"forward": forward, "gradient": gradient}[what].lower(*args).compile()
    seconds = time.perf_counter() - start
    for _ in range(2):
        jax.block_until_ready(compiled(*args))
    return {
        "compile_s": seconds,
        "peak_gib": peak_memory(),
        "peak_before_gib": before,
        "buffers_gib": compiled.memory_analysis().temp_size_in_bytes / 2**30,
    }


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", help="the package file of random-face==2021.7.21.1, for OpenVINO")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--fresh", nargs=2, metavar=("WHAT", "BATCH"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.fresh:
        print(json.dumps(fresh(flags.fresh[0], int(flags.fresh[1]))))
        return
    if flags.package is None:
        parser.error("--package is needed: python -m pip download --no-deps random-face==2021.7.21.1")
    for batch in flags.batches:
        compare(flags.package, batch, flags.repeats)
    for batch in flags.batches:
        for what in ("forward", "gradient"):
            command = [sys.executable, __file__, "--fresh", what, str(batch)]
            env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
            emit({"benchmark": "mobile in a fresh process", "what": what, "batch": batch, **json.loads(done.stdout)})


if __name__ == "__main__":
    main()
