"""Filters: functions from a direction to a direction, which compose in any order.

| filter        | law                                                                                        |
| ------------- | ------------------------------------------------------------------------------------------ |
| `normalise`   | unit length: v' = v / norm(v)                                                              |
| `restrict`    | weight 1 in the layers named, 0 in all others                                              |
| `attend`      | these soft weights instead of the direction's own (ContraFeat's layer attention)           |
| `conditional` | v' = v - P v, P onto the span of other directions (InterFaceGAN)                           |
| `null_space`  | v' = v - B^T B v, B the leading axes of what must not change (LowRankGAN)                  |

The two projections are computed in float64 and bring what is left back to the length of v, as their references bring it
to unit length; statistics "kept" is the share of its length that all projections so far have left, 1 at most. Where
strengths are in sigma the generator must be given, as the changed direction's sigma is measured anew from W; what else
had been measured on the unchanged direction, such as a leak, is dropped. The length of a vector for each layer is the
root mean square over the layers that it edits, so that equal unit rows have length 1.

    d = conditional(null_space(sefa_direction, axes_of(J.gram(background), rank=20), G), [glasses], G)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.edit.directions import Direction, fitted, remeasured, restrict
from lsap_jax.errors import DirectionError
from lsap_jax.generators.base import Generator

__all__ = ["attend", "conditional", "normalise", "null_space", "restrict"]

_NOTHING = 1e-5  # of the length: what a float32 vector that lies in the span keeps of it by rounding


def normalise(d: Direction) -> Direction:
    """Unit length: v' = v / |v|.

    In unit "sigma" scale and sigma grow by |v|, and every edit stays what it was; in unit "w" a strength of 1 becomes a
    step of length 1.

    Raises:
      DirectionError: if the vector is zero or not finite.
    """
    length = _length(_vector(d), d)
    known = dict(d.statistics)
    if "sigma" in known:
        known["sigma"] = known["sigma"] * length
    scale = d.scale * length if d.unit == "sigma" else d.scale
    return d.replace(vector=_float32(_vector(d) / length), scale=scale, statistics=known)


def attend(
    d: Direction, layer_weights: jax.Array | np.ndarray | Sequence[float], G: Generator | None = None
) -> Direction:
    """Soft weights (rows,) in place of the direction's own; layers beyond their end get nothing.

    Sigma of a vector for each layer is measured anew over the layers with a weight other than 0.

    Raises:
      DirectionError: if weights are all zero, not finite, not as many as the direction has rows, or more than G has.
    """
    weights = np.asarray(layer_weights, np.float32)
    if weights.ndim != 1 or not np.isfinite(weights).all() or not weights.any():
        raise DirectionError(f"{d.name}: layer weights must be a row of finite numbers, not all 0; given: {weights}")
    if d.vector.ndim == 2 and len(weights) != len(d.vector):
        raise DirectionError(f"{d.name}: {len(weights)} layer weights for a direction of {len(d.vector)} rows")
    changed = d.replace(layer_weights=jnp.asarray(weights))
    changed = changed if G is None else fitted(changed, G)
    return changed if d.vector.ndim == 1 else remeasured(changed, G)


def conditional(d: Direction, others: Sequence[Direction], G: Generator | None = None) -> Direction:
    """Move along d, but not along the others: v - sum_i (v . q_i) q_i, q an orthonormal basis of their span.

    InterFaceGAN's conditional manipulation (Shen et al., arXiv:2005.09635, section 3.3; its code takes two others,
    this any number). Of vectors for each layer every row is projected off the same row of the others, so no layer
    moves along them whatever the layer weights; the result then has a vector for each layer.

    Args:
      d: the direction.
      others: what must stay; they may be parallel to each other.
      G: their generator, needed where d is in sigma.

    Raises:
      DirectionError: if nothing of d is left, the shapes do not fit, or fingerprints differ.
    """
    if not others:
        raise DirectionError(f"{d.name}: no other direction to be projected off was given")
    names = ", ".join(other.name for other in others)
    for other in others:
        if d.fingerprint and other.fingerprint and d.fingerprint != other.fingerprint:
            raise DirectionError(
                f"{other.name} is of generator {other.fingerprint} and {d.name} of {d.fingerprint}: they share no W"
            )
    vectors = [_vector(x) for x in (d, *others)]
    for other, vector in zip(others, vectors[1:], strict=True):
        _length(vector, other)
    rows = {len(v) for v in vectors if v.ndim == 2}
    if len(rows) > 1 or len({v.shape[-1] for v in vectors}) > 1:
        raise DirectionError(f"{d.name} off {names}: shapes {[v.shape for v in vectors]} do not fit together")
    if not rows:
        basis = _orthonormal(np.stack(vectors[1:]))
        return _kept(d, vectors[0] - (vectors[0] @ basis.T) @ basis, f"projected off {names}", G)
    wide = [np.broadcast_to(v, (*rows, v.shape[-1])) for v in vectors]
    left = []
    for row, *conditions in zip(*wide, strict=True):
        basis = _orthonormal(np.stack(conditions))
        left.append(row - (row @ basis.T) @ basis)
    return _kept(_in_rows(d, *rows), np.stack(left), f"projected off {names}", G)


def null_space(d: Direction, basis: np.ndarray, G: Generator | None = None, of: str = "a region") -> Direction:
    """Keep of d what lies in the orthogonal complement of a region's leading axes: v - B^T B v.

    LowRankGAN's projection (Zhu et al., arXiv:2106.04488, section 3.3) for any direction. B may be

    * (r, w_dim): axes of the Jacobian to W, or to rows that move together; every row is projected off them;
    * (rows, r, w_dim): axes for each row;
    * (r, n * w_dim): axes of n rows that move on their own, as of a Jacobian with `tied=False`; n is the number of
      layers that d edits, or of all its rows. What is projected is the step, layer weights times vector, as a whole;
      the result has a vector for each layer, and weights 0 and 1.

    Args:
      d: the direction.
      basis: B, with orthonormal rows: `low_rank.axes_of(J.gram(region), rank=r)`. None of them (r = 0) changes nothing.
      G: its generator, needed where d is in sigma.
      of: what B belongs to, for the origin.

    Raises:
      DirectionError: if B does not fit or is not orthonormal, or nothing of d is left.
    """
    basis, v = np.asarray(basis, np.float64), _vector(d)
    w_dim = v.shape[-1]
    words = f"off {basis.shape[-2] if basis.ndim > 1 else 0} axes of {of}"
    if basis.ndim not in (2, 3) or not np.isfinite(basis).all():
        raise DirectionError(f"{d.name}: axes {basis.shape} must be finite rows (r, w_dim), see `null_space`")
    stacks = basis if basis.ndim == 3 else basis[None]
    for stack in stacks:
        if np.abs(stack @ stack.T - np.eye(len(stack))).max(initial=0) > 1e-4:
            raise DirectionError(
                f"{d.name}: the axes {words[4:]} are not orthonormal: orthonormalise them (np.linalg.qr)"
            )
    if basis.ndim == 3:
        if basis.shape[2] != w_dim or (v.ndim == 2 and len(v) != len(basis)):
            raise DirectionError(f"{d.name}: axes {basis.shape} for each row do not fit a direction {v.shape}")
        rows = np.broadcast_to(v, (len(basis), w_dim))
        left = rows - np.einsum("lri,lr->li", basis, np.einsum("lri,li->lr", basis, rows))
        return _kept(_in_rows(d, len(basis)), left, words, G)
    if basis.shape[1] == w_dim:
        return _kept(d, v - (v @ basis.T) @ basis, words, G)
    return _stacked(d, basis, words, G)


def _stacked(d: Direction, basis: np.ndarray, words: str, G: Generator | None) -> Direction:
    """`null_space` off axes of several rows that move on their own."""
    v = _vector(d)
    w_dim, weights = v.shape[-1], d.layer_weights
    if weights is not None:
        weights = np.asarray(weights, np.float64)
    elif v.ndim == 2:
        weights = np.ones(len(v))
    elif G is not None:
        weights = np.ones(G.num_ws)
    else:
        raise DirectionError(f"{d.name}: say which layers it edits (restrict), or give the generator")
    edited = np.flatnonzero(weights)
    if basis.shape[1] == len(weights) * w_dim:
        edited = np.arange(len(weights))
    elif basis.shape[1] != len(edited) * w_dim:
        raise DirectionError(
            f"{d.name}: axes of length {basis.shape[1]} fit neither one row of {w_dim} numbers, nor the {len(edited)} "
            f"rows that it edits, nor all {len(weights)}"
        )
    step = np.zeros((len(weights), w_dim))
    step += weights[:, None] * v
    flat = step[edited].reshape(-1)
    left = np.zeros_like(step)
    left[edited] = (flat - (flat @ basis.T) @ basis).reshape(-1, w_dim)
    ones = np.zeros(len(weights), np.float32)
    ones[edited] = 1
    moving = d.replace(vector=_float32(step), layer_weights=jnp.asarray(ones), space="w+")
    return _kept(moving, left, words, G)


def _kept(d: Direction, left: np.ndarray, words: str, G: Generator | None) -> Direction:
    """What a projection left of a direction, at the length that it had."""
    before = _length(_vector(d), d)
    after = _rms(left, d)
    if after <= _NOTHING * before:
        raise DirectionError(f"{d.name}, {words}: nothing is left of it, it lies in what it is projected off")
    share = min(after / before, 1.0)
    kept = jnp.float32(share * float(d.statistics.get("kept", 1.0)))
    changed = d.replace(
        vector=_float32(left * (before / after)),
        origin=f"{d.origin}; {words}, {share:.3f} of its length kept",
        statistics={**d.statistics, "kept": kept},
    )
    return remeasured(changed, G)


def _in_rows(d: Direction, rows: int) -> Direction:
    """The direction with a vector for each of so many layers."""
    if d.layer_weights is not None and len(d.layer_weights) != rows:
        raise DirectionError(f"{d.name}: {len(d.layer_weights)} layer weights, and there are {rows} rows")
    return d.replace(vector=jnp.broadcast_to(d.vector, (rows, d.vector.shape[-1])), space="w+")


def _vector(d: Direction) -> np.ndarray:
    return np.asarray(d.vector, np.float64)


def _float32(vector: np.ndarray) -> jax.Array:
    return jnp.asarray(vector, jnp.float32)


def _rms(vector: np.ndarray, d: Direction) -> float:
    """Root mean square length of the rows that d edits."""
    if vector.ndim == 2 and d.layer_weights is not None:
        vector = vector[np.flatnonzero(d.layer_weights)]
    return float(np.sqrt(np.square(vector).sum(-1).mean())) if vector.size else 0.0


def _length(vector: np.ndarray, d: Direction) -> float:
    length = _rms(vector, d)
    if not (np.isfinite(length) and length > 0):
        raise DirectionError(f"{d.name}: its vector is zero or not finite, so it points nowhere")
    return length


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis (r, w_dim) of the span of rows; rows that repeat others add nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(lengths > 0, lengths, 1)
    _, values, basis = np.linalg.svd(units, full_matrices=False)
    return basis[values > _NOTHING]
