"""An IR-SE network small enough for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from lsap_jax.networks.ir_se import Stage

STAGES = (Stage(16, 1), Stage(16, 2), Stage(32, 1))


def variables(module, size: int, channels: int = 3):
    """What `module.init` would give for images of `size` pixels, drawn by numpy, which compiles nothing."""
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    random = np.random.RandomState(0)

    def leaf(path, shape):
        match path[-1].key:
            case "kernel":
                return random.randn(*shape.shape) / np.sqrt(np.prod(shape.shape[:-1]))
            case "scale" | "var":
                return np.ones(shape.shape)
            case "slope":
                return np.full(shape.shape, 0.25)
        return np.zeros(shape.shape)

    tree = jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(module.init, jax.random.key(0), image))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
