"""A head's start in closed form: ridge regression from a frozen trunk's features to known codes.

Gradient descent from random layers takes ten thousands of steps to a code that a linear map of good features gives at
once. So the head "w+" (BN, one linear layer, one to all rows) can begin there: its norm takes the features' own
statistics, its first layer gives the coefficients of the mean row along W's principal axes in standard deviations, and
its second layer those axes, the same for every row. Training goes on from that code of W into W+.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.data import resize
from lsap_jax.errors import ConfigError
from lsap_jax.latent.spaces import WStatistics
from lsap_jax.networks import encoder_heads, encoders
from lsap_jax.networks.encoders import EncoderArch

PENALTIES = (0.03, 0.1, 0.3, 1.0)  # times the number of features: features and targets are of unit variance
HELD_OUT = 10  # every so-manieth sample chooses the penalty


def fit(
    variables: dict[str, Any],
    arch: EncoderArch,
    batches: Iterable[tuple[jax.Array, jax.Array]],
    start: jax.Array,
    statistics: WStatistics,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Variables with a fitted head, and how well it does.

    Args:
      variables: of the encoder; its trunk stays as it is.
      arch: of the encoder, with head "w+" and an image for input.
      batches: (images (B, S, S, 3) as the encoder will see them, ws (B, num_ws, w_dim)).
      start: (num_ws, w_dim) what the encoder's output is added to.
      statistics: of the generator's W.

    Returns:
      the variables; and {"penalty", "explained": share of the held-out variance of the coefficients, weighed as in W}.

    Raises:
      ConfigError: if the encoder has another head or input, or a width larger than W has axes.
    """
    if arch.head != "w+" or arch.input != "rgb" or arch.width > arch.w_dim:
        raise ConfigError(
            "config.train.encoder.fit is for head 'w+', input 'rgb', and a width of at most w_dim: "
            f"this one has {arch.head!r}, {arch.input!r}, {arch.width}"
        )
    trunk = encoders.TRUNKS[arch.trunk][0](arch.stages)
    inner = {name: tree["trunk"] for name, tree in variables.items() if "trunk" in tree}
    features = jax.jit(lambda x: trunk.apply(inner, encoders.network_input(arch, x))[-1])
    maps, codes = [], []
    for images, ws in batches:
        maps.append(np.asarray(features(images)))
        codes.append(np.asarray((ws - start[None]).mean(1)))
    x = np.concatenate(maps)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = np.asarray(resize.adaptive_average_pool((x - mean) / np.sqrt(variance + 1e-5), encoder_heads.POOLED))
    x = x.reshape(len(x), -1)
    axes, stddev = np.asarray(statistics.components)[: arch.width], np.asarray(statistics.stddev)[: arch.width]
    y = np.concatenate(codes) @ axes.T / stddev
    penalty, explained = _choose(x, y, stddev)
    kernel, bias = _solve(x, y, penalty)

    params = variables["params"]
    rows = np.tile(axes * stddev[:, None] * arch.width**0.5, arch.num_ws)  # the equalised layer divides by the root
    head = {
        "norm": {"scale": np.ones_like(mean), "bias": np.zeros_like(mean)},
        "dense": {"kernel": kernel, "bias": bias},
        "linear": {"kernel": rows, "bias": np.zeros(rows.shape[1], np.float32)},
    }
    stats = {**variables.get("batch_stats", {}), "head": {"norm": {"mean": mean, "var": variance}}}
    fitted = {**variables, "params": {**params, "head": head}, "batch_stats": stats}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), fitted), {
        "penalty": penalty,
        "explained": explained,
    }


def _choose(x: np.ndarray, y: np.ndarray, stddev: np.ndarray) -> tuple[float, float]:
    held = np.arange(len(x)) % HELD_OUT == 0
    total = np.square((y[held] - y[~held].mean(0)) * stddev).sum()
    best = (PENALTIES[-1], -np.inf)
    for penalty in PENALTIES:
        kernel, bias = _solve(x[~held], y[~held], penalty)
        explained = 1 - float(np.square((x[held] @ kernel + bias - y[held]) * stddev).sum() / total)
        if explained > best[1]:
            best = (penalty, explained)
    return best


def _solve(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Minimise |x kernel + bias - y|^2 + penalty size |kernel|^2 by the smaller of the two linear systems."""
    count, size = x.shape
    xm, ym = x.mean(0), y.mean(0)
    x, y = x - xm, y - ym
    weight = np.float32(penalty * size)
    if count <= size:
        kernel = x.T @ np.linalg.solve(x @ x.T + weight * np.eye(count, dtype=x.dtype), y)
    else:
        kernel = np.linalg.solve(x.T @ x + weight * np.eye(size, dtype=x.dtype), x.T @ y)
    return kernel, ym - xm @ kernel
