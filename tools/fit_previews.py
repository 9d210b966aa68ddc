"""Fit the preview heads of `ffhq-mobile` (lsap_jax/generators/previews.py) to its area-downsampled full render.

    python tools/fit_previews.py --out lsap_jax/generators/previews_ffhq_mobile.npz [--work FOLDER]

Samples: half of them truncated to 0.7, half mixed of two w at a random row, half with normal jitter of the whole code.
Each gives its code, its render at 256 pixels, and for each head some random patches of features and bands; Haar bands
are orthonormal, so their squared error is that of the pixels. Fitted by Adam, from the least-squares solution of the
linear part. Then PSNR and LPIPS over 200 fresh samples are printed and written into the file.

1,200 samples take about 15 minutes on two cores. --work keeps them, so that another fit need not render them again.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsap_jax.checkpoints import store
from lsap_jax.data import resize
from lsap_jax.errors import LsapError
from lsap_jax.generators import previews
from lsap_jax.generators.base import Generator
from lsap_jax.generators.wavelet import haar
from lsap_jax.latent import spaces
from lsap_jax.metrics.image import psnr
from lsap_jax.networks import lpips
from lsap_jax.pretrained import ASSETS, load_generator

SIDES = (256,)
PATCH = 8  # features of a side; one more is cut on every edge, for the 3x3 convolution
PATCHES = 8  # of a sample
HIDDEN, RANK = 96, 32
BATCH = 64  # patches of as many samples in a step
PEAK_RATE, DECAY, CLIP = 1e-3, 0.1, 0.3
FLOOR = 0.4  # of the largest deviation: principal components of less count less, as one sees fewer of their effects
GROUPS = ("one w, psi 1", "one w, psi 0.7", "two w, psi 1", "two w, psi 0.7")  # half of each jittered


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="where to write the heads")
    parser.add_argument("--work", metavar="FOLDER", help="where to keep samples; what is there is used again")
    parser.add_argument("--samples", type=int, default=1200, help="for the fit")
    parser.add_argument("--steps", type=int, default=1500, help="of Adam, for each head")
    flags = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit_and_write(flags.out, pathlib.Path(flags.work or folder), flags.samples, flags.steps)
    except LsapError as error:
        print(f"fit_previews: {error}", file=sys.stderr)
        return 1
    return 0


def fit_and_write(out: str, work: pathlib.Path, samples: int, steps: int) -> None:
    """All of it: samples, both heads, figures, file."""
    G = load_generator("ffhq-mobile").replace(previews={})
    statistics = spaces.w_statistics(G, 20_000)
    train = kept(work / f"fit-{samples}.npz", lambda: render(G, codes(G, statistics, jax.random.key(1), samples)))
    fresh = kept(work / "fresh-200.npz", lambda: render(G, codes(G, statistics, jax.random.key(11), 200)))
    heads = {}
    for side in SIDES:
        cut = kept(work / f"patches-{samples}-{side}.npz", lambda side=side: patches(G, train, side))
        heads[str(side)] = fit(G, statistics, train["ws"], cut, side, steps)
    heads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float16).astype(jnp.float32), heads)  # as they will be read
    figures = measure(G.replace(previews=heads), fresh)
    command = f"python tools/fit_previews.py --out {pathlib.Path(out).name} --samples {samples} --steps {steps}"
    licence = f"fitted to the outputs of ffhq-mobile: {ASSETS['ffhq-mobile'].licence}"
    previews.save(out, G, heads, {"command": command, "figures": figures, "licence": licence})
    print(f"{out}: {pathlib.Path(out).stat().st_size / 1e3:.0f} kB, for {G.name} ({G.fingerprint})")


def codes(G: Generator, statistics: spaces.WStatistics, key: jax.Array, count: int) -> jax.Array:
    """(count, num_ws, w_dim): every second truncated, two of four mixed, four of eight jittered (`GROUPS`)."""
    z_key, _, row_key, jitter_key, size_key = jax.random.split(key, 5)
    i = jnp.arange(count)
    first, second = jnp.split(G.map(jax.random.normal(z_key, (2 * count, G.z_dim))), 2)
    cross = jnp.where(i % 4 >= 2, jax.random.randint(row_key, (count,), 1, G.num_ws), G.num_ws)
    ws = jnp.where(jnp.arange(G.num_ws)[None, :, None] < cross[:, None, None], G.broadcast(first), G.broadcast(second))
    ws = G.w_avg[None, None] + jnp.where(i % 2 == 0, 1.0, 0.7)[:, None, None] * (ws - G.w_avg[None, None])
    size = jnp.where(i % 8 >= 4, 0.2, 0.0)[:, None, None] * jax.random.uniform(size_key, (count, 1, 1))
    return ws + size * statistics.spread / G.w_dim**0.5 * jax.random.normal(jitter_key, ws.shape)


def render(G: Generator, ws: jax.Array) -> store.Tree:
    """Codes and their full renders shrunk to 256 pixels, as float16."""
    batches = [np.asarray(_shrunk(G, ws[i : i + 4])) for i in range(0, len(ws), 4)]
    return {"ws": np.asarray(ws), "target": np.concatenate(batches)}


@jax.jit
def _shrunk(G, ws):
    return resize.area(G.synthesize(ws), max(SIDES)).astype(jnp.float16)


def patches(G: Generator, samples: store.Tree, side: int) -> store.Tree:
    """Patches of padded features and of target bands, for each sample: (N, PATCHES, ., ., C) float16."""
    keys = jax.random.split(jax.random.key(side), len(samples["ws"]))
    cut = [
        jax.device_get(_patches(G, samples["ws"][i : i + 8], samples["target"][i : i + 8], keys[i : i + 8], side))
        for i in range(0, len(keys), 8)
    ]
    return {"x": np.concatenate([x for x, _ in cut]), "y": np.concatenate([y for _, y in cut])}


@jax.jit(static_argnames="side")
def _patches(G, ws, target, keys, side):
    x = G.run_blocks(G.initial_features(len(ws)), ws, stop=(side // 8).bit_length()).x
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(jnp.float16)
    y = haar(resize.area(target.astype(jnp.float32), side)).astype(jnp.float16)

    def cut(x, y, corner):
        inputs = jax.lax.dynamic_slice(x, (*corner, 0), (PATCH + 2, PATCH + 2, x.shape[-1]))
        return inputs, jax.lax.dynamic_slice(y, (*corner, 0), (PATCH, PATCH, 12))

    def of_sample(x, y, key):
        corners = jax.random.randint(key, (PATCHES, 2), 0, side // 2 - PATCH + 1)
        return jax.vmap(lambda corner: cut(x, y, tuple(corner)))(corners)

    return jax.vmap(of_sample)(x, y, keys)


def fit(G: Generator, statistics: spaces.WStatistics, ws: np.ndarray, cut: store.Tree, side: int, steps: int) -> Any:
    """One head, in units of the generator; `ws` and `cut` are those of the same samples."""
    rows = ws[:, 2 * (side // 8).bit_length() - 1 :]
    scale = np.maximum(statistics.stddev, FLOOR * statistics.stddev[0]) * rows.shape[1] ** 0.5
    whiten = np.asarray(statistics.components).T / np.asarray(scale)[None]
    rows = ((rows - np.asarray(G.w_avg)) @ whiten).astype(np.float32)
    size = np.sqrt(np.square(cut["x"][:, 0].astype(np.float32)).mean((0, 1, 2)))
    random = np.random.RandomState(0)
    head = _start(random, rows, cut, size)
    schedule = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, 50, steps, 1e-5)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adamw(schedule, b2=0.99, weight_decay=DECAY))
    state = optimizer.init(head)

    @jax.jit
    def step(head, state, x, y, rows):
        def error(head):
            image = previews.render(head, x.astype(jnp.float32) / size.reshape(1, 1, 1, -1), rows)
            return jnp.square(haar(image)[:, 1:-1, 1:-1] - y.astype(jnp.float32)).mean()

        value, gradient = jax.value_and_grad(error)(head)
        updates, state = optimizer.update(gradient, state, head)
        return optax.apply_updates(head, updates), state, value

    for number in range(1, steps + 1):
        some, which = random.permutation(len(rows))[:BATCH], random.randint(PATCHES, size=min(BATCH, len(rows)))
        head, state, value = step(head, state, cut["x"][some, which], cut["y"][some, which], rows[some])
        if number % 100 == 0:
            print(f"{side}: step {number} of {steps}, {10 * np.log10(4 / value):.2f} dB", flush=True)
    return _unscaled(head, whiten, np.asarray(G.w_avg), size)


def _start(random: np.random.RandomState, rows: np.ndarray, cut: store.Tree, size: np.ndarray) -> Any:
    """Random projections; styles 1; and the best linear map for them, which leaves the hidden layer nothing yet."""
    c = len(size)
    x = cut["x"][:, :2, 1:-1:2, 1:-1:2].reshape(-1, c).astype(np.float32) / size
    y = cut["y"][:, :2, ::2, ::2].reshape(-1, 12).astype(np.float32)
    dx, dy = x - x.mean(0), y - y.mean(0)
    direct = np.linalg.solve(dx.T @ dx / len(dx) + 1e-3 * np.eye(c), dx.T @ dy / len(dx))
    w_dim = rows.shape[2]
    head = jax.tree.map(np.zeros, previews.shapes(c, rows.shape[1], w_dim, HIDDEN, RANK), is_leaf=_is_shape)
    head["code"]["weight"] = 0.05 * random.randn(*head["code"]["weight"].shape)
    head["style"]["bias"] += 1
    head["hidden"]["weight"] = c**-0.5 * random.randn(c, HIDDEN)
    head["hidden"]["gain"]["bias"] += 1
    head["bands"]["weight"] = 1e-3 * random.randn(3, 3, HIDDEN, 12)
    head["bands"]["direct"] = direct
    head["bands"]["shift"]["bias"] = y.mean(0) - x.mean(0) @ direct
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), head)


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def _unscaled(head: Any, whiten: np.ndarray, w_avg: np.ndarray, size: np.ndarray) -> Any:
    """The head for features and rows as the generator has them."""
    code = np.asarray(head["code"]["weight"]).reshape(-1, len(whiten), RANK)
    code = np.einsum("wv,nvr->nwr", whiten, code)
    bias = np.asarray(head["code"]["bias"]) - np.einsum("nwr,w->r", code, w_avg)
    return {
        **head,
        "code": {"weight": code.reshape(-1, RANK), "bias": bias},
        "style": jax.tree.map(lambda x: np.asarray(x) / size, head["style"]),
    }


def measure(G: Generator, samples: store.Tree) -> dict[str, Any]:
    """PSNR and LPIPS of every head against the shrunken full render, over all samples and by group; printed."""
    judges = {net: lpips.load(net) for net in ("vgg", "alex")}
    figures = {}
    for side in SIDES:
        found: dict[str, list] = {"psnr": [], **{f"lpips_{net}": [] for net in judges}}
        for i in range(0, len(samples["ws"]), 4):
            target = resize.area(samples["target"][i : i + 4].astype(np.float32), side)
            image = G.synthesize(samples["ws"][i : i + 4], resolution=side)
            found["psnr"].append(psnr(image, target))
            for net, judge in judges.items():
                found[f"lpips_{net}"].append(judge(image, target))
        values = {name: np.concatenate(parts) for name, parts in found.items()}
        figures[str(side)] = {
            "samples": len(values["psnr"]),
            **{name: round(float(value.mean()), 4) for name, value in values.items()},
            "psnr_5th_percentile": round(float(np.percentile(values["psnr"], 5)), 2),
            "psnr_of_groups": {name: round(float(values["psnr"][g::4].mean()), 2) for g, name in enumerate(GROUPS)},
        }
        print(f"{side}: {figures[str(side)]}", flush=True)
    return figures


def kept(path: pathlib.Path, compute: Any) -> store.Tree:
    """The tree in a file of the working folder, made first if it is not there."""
    if not path.exists():
        print(f"making {path.name}", flush=True)
        store.save(path, compute(), {"kind": "samples for fit_previews"})
    return store.load(path)[0]


if __name__ == "__main__":
    sys.exit(main())
