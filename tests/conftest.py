"""Strict settings for every test, and what a test may need from outside."""

import os

# Before the first import of jax: tests are about numbers, so no GPU by accident.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small matrices in many threads wait for each other on a busy machine, a hundred times longer than they compute.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

from lsap_jax import cache

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
cache.keep_compiled_programs()  # most of the suite's time is compilation


@pytest.fixture(autouse=True)
def _weights(request):
    """`@pytest.mark.weights("name", ...)`: fetch the assets, or skip without a network; under CI, fail."""
    marker = request.node.get_closest_marker("weights")
    if marker is None:
        return
    from lsap_jax import pretrained
    from lsap_jax.errors import FetchError

    for name in marker.args:
        try:
            pretrained.fetch(name)
        except FetchError as error:
            if os.environ.get("CI"):
                raise  # there a missing weight must not hide behind a skip
            pytest.skip(f"{name} is not here: {error}")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder for this test alone."""
    monkeypatch.setenv("LSAP_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory):
    """An empty cache folder for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSAP_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
