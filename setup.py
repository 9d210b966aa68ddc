"""Packaging of lsap_jax; tool settings live in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "lsap_jax/__init__.py").read_text()).group(1)

# Reading training images and keeping checkpoints.
TRAIN = ["grain", "orbax-checkpoint"]
# Data sets of TensorFlow Datasets, in ArrayRecord files and without TensorFlow; it lacks importlib_resources itself.
TFDS = ["array_record", "importlib_resources", "tensorflow-datasets"]

setuptools.setup(
    name="lsap_jax",
    version=VERSION,
    description="GAN inversion and editing of real photos in JAX: LSAP and the methods around it.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["lsap_jax", "lsap_jax.*"]),
    package_data={
        "lsap_jax.edit": ["bank_*.npz"],
        "lsap_jax.embed": ["preconditioner_*.npz"],
        "lsap_jax.generators": ["previews_*.npz"],
        "lsap_jax.networks": ["encoder_*.npz"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py",  # flags of the commands
        "flax",  # Linen modules, struct.dataclass
        "jax>=0.10",  # jax.jit as decorator factory, 'area' resizing
        "ml-collections",  # --config files with overrides
        "numpy",
        "optax",
        "pillow>=10.1",  # reading photos; ImageDraw fonts with a size
    ],
    extras_require={
        "test": [
            "chex",
            "pytest",
            "pytest-xdist",  # two processes: half of the suite is compiling, by one thread
            "pyrefly",
            "ruff",
            *TRAIN,
            *TFDS,
        ],
        "train": TRAIN,
        "tfds": TFDS,
        "tensorboard": ["tensorboardX"],  # what `lsap_jax.train` measures, also as TensorBoard files
        # Only benchmarks/ compares with these.
        "benchmark": ["openvino"],
    },
    entry_points={"console_scripts": ["lsap = lsap_jax.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
