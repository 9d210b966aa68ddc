"""A generator file for runs of the trainer, and the configuration that tests start from."""

import config_files
import pytest
import tiny

from lsap_jax.generators import files


@pytest.fixture(scope="session")
def generator_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "tiny.npz"
    files.save(path, tiny.generator())
    return path


@pytest.fixture
def config(generator_file):
    """configs/tiny.py on a real file."""
    config = config_files.load("tiny")
    config.generator = str(generator_file)
    return config
