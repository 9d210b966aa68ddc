"""What the training of an encoder starts from."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from lsap_jax import pretrained
from lsap_jax.checkpoints import convert_ir_se, read
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.networks import dlib_trunk, encoders
from lsap_jax.networks.encoders import EncoderArch


def variables(weights: str, arch: EncoderArch, seed: int) -> dict[str, Any]:
    """An encoder's variables before the first step.

    Args:
      weights: "" for random ones; "dlib-face" for a trunk "dlib" with the weights of dlib's face descriptor; a path of
        an encoder of the same description; or of a face recogniser whose trunk is taken (pSp starts so from
        `model_ir_se50.pth`).
      arch: of the encoder.
      seed: of what is random.

    Raises:
      CheckpointError: if the file is missing, or does not fit.
      ConfigError: if "dlib-face" is asked for another trunk.
    """
    shape = (1, arch.resolution, arch.resolution, arch.channels)
    fresh = jax.jit(lambda key: encoders.module(arch).init(key, jnp.zeros(shape)))(jax.random.key(seed))
    if not weights:
        return fresh
    if weights == "dlib-face":
        if arch.trunk != "dlib":
            raise ConfigError(f"config.train.encoder.weights='dlib-face' is for trunk 'dlib', not {arch.trunk!r}")
        trunk = dlib_trunk.pretrained_params(pretrained.load("dlib-face")[0], arch.stages, arch.channels)
        return _with_trunk(fresh, {"params": trunk}, weights)
    if pathlib.Path(weights).suffix == ".npz":
        given = pretrained.load_encoder(weights)
        _same_shapes(fresh, given.variables, weights)
        return given.variables
    state = read.read(weights)
    return _with_trunk(fresh, convert_ir_se.convert_backbone(state, ""), weights)


def _with_trunk(fresh: dict[str, Any], trunk: dict[str, Any], weights: str) -> dict[str, Any]:
    """`fresh` with the variables of its trunk replaced."""
    merged = {}
    for collection, tree in fresh.items():
        given = trunk.get(collection)
        if given is None:
            merged[collection] = tree
            continue
        _same_shapes(tree["trunk"], given, weights)
        merged[collection] = {**tree, "trunk": jax.tree.map(jnp.asarray, given)}
    return merged


def _same_shapes(wanted: Any, given: Any, weights: str) -> None:
    wanted, given = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, given)
    )
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise CheckpointError(
                f"{weights}: {name} has shape {given.get(name, 'none')} where config.train.encoder describes "
                f"{wanted.get(name, 'none')}: describe the encoder as that file has it, or start from other weights"
            )
