"""One optimisation step against the sum of its parts, peak memory, and compile time cold and from the cache.

    python benchmarks/inversion_step.py [--repeats 8] [--preset lsap]

Prints JSON lines. Step and parts are timed in turns within one run, so that their ratio holds on a machine that others
use. The parts are what a step cannot do without: the generator's forward and gradient to W+, the area reduction with
LPIPS-VGG and L2 at 256 pixels and their gradient to the image, and the alignment term. Compile times are of fresh
processes: one with an empty cache of compiled programs, one with the cache that it left.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from timing import emit, interleave, machine, peak_memory

from lsap_jax import objectives, pretrained
from lsap_jax.data import resize
from lsap_jax.embed import optimize, preconditioner, presets


def parts(G, judges, P, method, states, target):
    """{name: timed call} of the step and of its parts, batch 1."""
    stage = method.stages[0]
    ws = G.broadcast(G.w_avg[None]) + 0.01
    image = G.synthesize(ws)
    cotangent = jnp.ones_like(image) / image.size

    @jax.jit
    def generator(G, ws, cotangent):
        image, pull = jax.vjp(lambda ws: G.synthesize(ws), ws)
        return image, pull(cotangent)

    @jax.jit
    def picture_terms(judges, image, target):
        def loss(image):
            small = resize.area(image, method.resolution)
            distance = judges.lpips_vgg.distance(judges.lpips_vgg.features(small), target["lpips_vgg"])
            return distance.sum() + jnp.square(small - target["l2"]).mean()

        return jax.value_and_grad(loss)(image)

    @jax.jit
    def code_terms(judges, G, ws):
        (name,) = [n for n, _ in stage.terms if n.startswith("sncd")]
        scene = objectives.Scene(image, image, ws, ())
        return jax.value_and_grad(lambda ws: objectives.TERMS[name].value(judges, G, scene._replace(ws=ws), None))(ws)

    @jax.jit
    def step(G, judges, P, states, target):
        key = jax.random.key(0)
        one = jax.vmap(lambda state, t: optimize.step(method, stage, G, judges, jnp.float32(10), key, state, t, P))
        return one(states, target)

    return {
        "step": lambda: step(G, judges, P, states, target),
        "generator forward and gradient": lambda: generator(G, ws, cotangent),
        "lpips and l2 with gradient": lambda: picture_terms(judges, image, jax.tree.map(lambda t: t[0], target)),
        "alignment with gradient": lambda: code_terms(judges, G, ws),
    }


def one_step(preset):
    """What a fresh process does until its first step is done: {what: seconds}, and its peak memory after ten."""
    began = time.perf_counter()
    G = pretrained.load_generator("ffhq-mobile")
    method = presets.preset(preset, steps=10)
    judges = objectives.judges_for(G, method.terms)
    loaded = time.perf_counter()
    times = []
    photo = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (1, 1024, 1024, 3)), jnp.float32)
    optimize.run(method, G, photo, judges=judges, progress=lambda *_: times.append(time.perf_counter()))
    peak = peak_memory()
    return {"loading_s": loaded - began, "to_first_step_s": times[0] - loaded, "peak_memory_gib": peak}


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--preset", default="lsap")
    parser.add_argument("--fresh", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.fresh:
        print(json.dumps(one_step(flags.preset)))
        return
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("cold", "from the cache"):
            settings = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
            command = [sys.executable, __file__, "--fresh", "--preset", flags.preset]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
            emit({"benchmark": "first step", "preset": flags.preset, "compiled": kind, **json.loads(done.stdout)})
    G = pretrained.load_generator("ffhq-mobile")
    method = presets.preset(flags.preset)
    judges = objectives.judges_for(G, method.terms)
    photo = G.synthesize(G.broadcast(G.map(jax.random.normal(jax.random.key(1), (1, G.z_dim)))))
    target = jax.vmap(lambda image: objectives.targets(method.terms, judges, image, method.resolution))(photo)
    P = preconditioner.fit(G) if method.preconditioned else None
    states = jax.vmap(lambda _: optimize.init(method, G, jax.random.key(0), P=P))(jnp.zeros(1))
    times = interleave(parts(G, judges, P, method, states, target), flags.repeats)
    total = {k: sum(t[k] for name, t in times.items() if name != "step") for k in ("min", "median")}
    ratio = {k: times["step"][k] / total[k] for k in total}
    emit({"benchmark": "inversion step", "preset": flags.preset, "times": times, "step_over_parts": ratio, **machine()})


if __name__ == "__main__":
    main()
