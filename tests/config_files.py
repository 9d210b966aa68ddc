"""The files of configs/, as commands load them."""

import importlib.util
import pathlib

from lsap_jax.config import Config

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def load(name: str) -> Config:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()
