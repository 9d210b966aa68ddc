"""Faces at 1024 x 1024 with the embedded generator: nothing to download but packages.

    python -m lsap_jax.invert --config configs/ffhq_mobile.py --images FOLDER --out DIR

COST on two CPU cores: about 1.5 s a step, 100 steps a photo, 3 GB of memory.
"""

from lsap_jax.config import Config, Invert


def get_config() -> Config:
    """The embedded default."""
    return Config(generator="ffhq-mobile", invert=Invert(preset="lsap-calibrated", steps=100))
