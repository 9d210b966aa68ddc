"""Strict settings for every test, and the two ways a test may depend on the outside."""

import os
import pathlib

# Before the first import of jax: tests are about numbers, so no fast low-precision paths and no GPU by accident.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

FIXTURES = pathlib.Path(__file__).parent / "fixtures"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def fixtures() -> pathlib.Path:
    """The folder of small golden files."""
    return FIXTURES
