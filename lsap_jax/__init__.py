"""GAN inversion and editing of real photos in JAX: LSAP and the methods around it."""

__version__ = "0.1.0"
