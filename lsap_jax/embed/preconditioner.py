"""A change of coordinates for codes of W+, in which an image loss is about as steep along every axis.

Along some directions of a row of W+ a step changes the picture a hundred times more than along others. Adam evens out
coordinates, but those of W+ are none of these directions, so it zigzags along the steep ones while it leaves the
generator's distribution along those that the picture hardly shows. Here Adam's moments live in the coordinates u of

    ws = start + code(u),    code(u) = sum over axes k of reach_k u_k v_k, and `rest` times what is beside them

row by row, where v_k are the leading eigenvectors of H, the average Gauss-Newton matrix of LPIPS-VGG + L2 / 2 over
codes of the generator, and reach = sqrt(h / (h + DAMPING mean(h))) with their eigenvalues h: 1 for what shows, less
for what does not. H is estimated by probes: for a random normal cotangent e of the (weighted) features f of the
picture, the gradient g = f'(ws)^T e has E[g g^T] = f'^T f'.

    P = preconditioner.fit(G)
    step = P.code(adam(P.coordinates(gradient)))

The matrix: Schraudolph, Fast curvature matrix-vector products, 2002. Adam in an eigenbasis: Vyas et al., SOAP,
arXiv:2409.11321, who estimate it during the run; the generator is known beforehand, so it is estimated once.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax import cache
from lsap_jax.checkpoints import store
from lsap_jax.data import resize
from lsap_jax.generators.base import Generator
from lsap_jax.latent import spaces
from lsap_jax.networks import lpips

KIND = "preconditioner of W+"
SHIPPED = pathlib.Path(__file__).with_name("preconditioner_ffhq_mobile.npz")
PROBES = 128  # for a generator whose own is not shipped: what about as many steps of an optimisation cost
AXES = 64  # of each row; more bring nothing
DAMPING = 0.03
RESOLUTION = 256  # at which pictures are compared, as the presets do
# Codes to probe at: samples drawn towards the mean, plus independent rows, as far from W as codes of photos are.
TRUNCATION, SPREAD = 0.7, 0.4

Coordinates = dict[str, jax.Array]


class Preconditioner(flax.struct.PyTreeNode):
    """The linear map of one generator, a symmetric positive matrix for each row of W+.

    Attributes:
      axes: (num_ws, K, w_dim) orthonormal rows.
      reach: (num_ws, K) in (0, 1].
      rest: (num_ws,) the same for all directions beside the axes.
    """

    axes: jax.Array
    reach: jax.Array
    rest: jax.Array

    def coordinates(self, gradient: jax.Array) -> Coordinates:
        """Gradient with respect to a code (num_ws, w_dim) -> gradient with respect to u; the transpose of `code`."""
        along, beside = self._split(gradient)
        return {"axes": along * self.reach, "rest": beside * self.rest[:, None]}

    def code(self, u: Coordinates) -> jax.Array:
        """Coordinates {"axes": (num_ws, K), "rest": (num_ws, w_dim)} -> what they add to a code (num_ws, w_dim)."""
        _, beside = self._split(u["rest"] * self.rest[:, None])
        return jnp.einsum("lkw,lk->lw", self.axes, u["axes"] * self.reach) + beside

    def _split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        along = jnp.einsum("lkw,lw->lk", self.axes, x)
        return along, x - jnp.einsum("lkw,lk->lw", self.axes, along)


def fit(
    G: Generator, num_probes: int = PROBES, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Preconditioner:
    """The preconditioner of G: the one that ships for `ffhq-mobile`, for others fitted once and cached by fingerprint.

    Args:
      G: the generator.
      num_probes: for the fit, each about as dear as a step of an optimisation.
      seed: of the codes and probes.
      progress: called with the number of probes done, where a fit is needed.

    Raises:
      FetchError: if LPIPS is missing and cannot be fetched.
    """
    if (shipped := read(SHIPPED, G)) is not None:
        return shipped
    meta = {"kind": KIND, "fingerprint": G.fingerprint, "num_probes": num_probes, "seed": seed}
    name = f"{meta['fingerprint']}-preconditioner-{num_probes}-{seed}"
    return _unpacked(cache.remember(name, lambda: decompose(curvature(G, num_probes, seed, progress)), meta))


def read(path: str | os.PathLike, G: Generator) -> Preconditioner | None:
    """The preconditioner in a file, or None if it is of another generator.

    Raises:
      CheckpointError: if the file is missing or damaged.
    """
    tree, meta = store.load(path)
    # The family first: it is free, and a fingerprint reads every weight.
    if meta["family"] != G.arch.kind or meta["fingerprint"] != G.fingerprint:
        return None
    return _unpacked(tree)


def save(path: str | os.PathLike, G: Generator, tree: store.Tree, meta: dict[str, Any]) -> None:
    """Write what `decompose` gave for G, axes as float16.

    Raises:
      OSError: if the file cannot be written.
    """
    record = {"kind": KIND, "generator": G.name, "family": G.arch.kind, "fingerprint": G.fingerprint}
    store.save(path, {**tree, "axes": np.asarray(tree["axes"], np.float16)}, {**meta, **record})


def curvature(G: Generator, num_probes: int, seed: int = 0, progress: Callable[[int], None] | None = None) -> jax.Array:
    """H, the average Gauss-Newton matrix of every row: (num_ws, w_dim, w_dim).

    Args:
      G: the generator.
      num_probes: codes, with one random cotangent each.
      seed: of both.
      progress: called with the number of probes done.
    """
    judge = lpips.load("vgg")
    drawn = spaces.sample_w(G, num_probes * (G.num_ws + 1), seed)
    w = np.concatenate([np.asarray(part) for part, _ in drawn])[: num_probes * (G.num_ws + 1)]
    w = w.reshape(num_probes, G.num_ws + 1, G.w_dim) - np.asarray(G.w_avg)
    ws = np.asarray(G.w_avg) + TRUNCATION * w[:, :1] + SPREAD * w[:, 1:]
    total = jnp.zeros((G.num_ws, G.w_dim, G.w_dim))
    for index, code in enumerate(ws):
        total = _add_probe(total, G, judge, code, jax.random.fold_in(jax.random.key(seed), index))
        if progress:
            progress(index + 1)
    return total / num_probes


def decompose(matrix: jax.Array, count: int = AXES) -> store.Tree:
    """H -> {"axes": (num_ws, K, w_dim), "eigenvalues": (num_ws, K), "rest": (num_ws,)}.

    K is `count`, at most w_dim - 1; "rest" is the mean of the eigenvalues left; all in units of the mean of all rows'.
    """
    count = min(count, matrix.shape[-1] - 1)
    values, vectors = jnp.linalg.eigh(matrix)
    values, vectors = jnp.maximum(values[:, ::-1], 0), jnp.swapaxes(vectors, 1, 2)[:, ::-1]
    values /= values.mean()
    return {"axes": vectors[:, :count], "eigenvalues": values[:, :count], "rest": values[:, count:].mean(1)}


def features(judge: lpips.Lpips, small: jax.Array) -> tuple[jax.Array, ...]:
    """What the loss compares of pictures (1, h, w, 3): the squared distance of two is LPIPS plus half their L2."""
    found = judge.features(small)
    weights = [jnp.maximum(judge.params["lin"][f"lin{i}"].reshape(1, 1, 1, -1), 0) for i in range(len(found))]
    seen = [f * jnp.sqrt(w / (f.shape[1] * f.shape[2])) for f, w in zip(found, weights, strict=True)]
    return *seen, small * (0.5 / small.size) ** 0.5


def _unpacked(tree: store.Tree) -> Preconditioner:
    reach, rest = (np.sqrt(h / (h + DAMPING)) for h in (np.asarray(tree["eigenvalues"]), np.asarray(tree["rest"])))
    return Preconditioner(jnp.asarray(tree["axes"], jnp.float32), jnp.asarray(reach), jnp.asarray(rest))


@jax.jit(donate_argnums=0)
def _add_probe(total, G, judge, code, key):
    def of_code(code):
        return features(judge, resize.area(G.synthesize(code[None]), min(RESOLUTION, G.resolution)))

    found, pull = jax.vjp(of_code, code)
    keys = jax.random.split(key, len(found))
    (g,) = pull(tuple(jax.random.normal(k, f.shape) for k, f in zip(keys, found, strict=True)))
    return total + g[:, :, None] * g[:, None]
