"""Processes, mesh and batches: by flags and environment, in one process and in two."""

import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from lsap_jax import distributed
from lsap_jax.distributed import Processes
from lsap_jax.errors import ConfigError

ALL = {"coordinator": "h:1", "num_processes": 2, "process_id": 1}


@pytest.mark.fast
def test_flags_come_before_the_environment_and_silence_means_alone():
    assert distributed.given({}, {}) is None
    assert distributed.given(ALL, {"LSAP_JAX_PROCESS_ID": "0"}) == Processes(1, 2, "h:1")
    environment = {f"LSAP_JAX_{name.upper()}": str(value) for name, value in ALL.items()}
    assert distributed.given({}, environment) == Processes(1, 2, "h:1")
    assert distributed.given({"distributed": True}, {}) == Processes(None, None, None)
    assert distributed.given({}, {"LSAP_JAX_DISTRIBUTED": "1"}) == Processes(None, None, None)
    assert distributed.given({"distributed": False}, {"LSAP_JAX_DISTRIBUTED": "1"}) is None


@pytest.mark.fast
def test_half_said_or_impossible_is_refused_by_name():
    with pytest.raises(ConfigError, match="--coordinator is missing"):
        distributed.given({"num_processes": 2, "process_id": 0}, {})
    with pytest.raises(ConfigError, match="process_id 2"):
        distributed.given({**ALL, "process_id": 2}, {})
    with pytest.raises(ConfigError, match="whole numbers"):
        distributed.given({}, {f"LSAP_JAX_{name.upper()}": "x" for name in ALL})


@pytest.mark.fast
def test_a_batch_is_split_and_a_tree_copied():
    mesh = distributed.mesh()
    assert mesh.axis_names == ("data",)
    rows = np.arange(2 * mesh.size, dtype=np.float32).reshape(-1, 1)
    batch = distributed.shard_batch(mesh, {"a": rows})
    np.testing.assert_array_equal(batch["a"], rows)
    assert batch["a"].sharding.spec == jax.P("data")
    assert distributed.replicate(mesh, rows).is_fully_replicated


PROGRAM = """
import sys, jax, numpy as np
from absl import flags
from lsap_jax import distributed
distributed.define_flags()
flags.FLAGS(sys.argv)
jax.config.update("jax_num_cpu_devices", 2)
distributed.initialize_from_flags()
mesh = distributed.mesh()
mine = np.full((4, 3), jax.process_index() + 1, np.float32)
batch = distributed.shard_batch(mesh, mine)
weight = distributed.replicate(mesh, np.float32(2))
total = jax.jit(lambda x, w: (x * w).sum())(batch, weight)
print(f"\\n{batch.shape} {mesh.size} {distributed.mesh(local=True).size} {total}", flush=True)
try:
    distributed.shard_batch(mesh, mine[:3])
except distributed.ConfigError as error:
    print(error)
jax.distributed.shutdown()
"""


def test_two_processes_make_one_batch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PROGRAM, f"--coordinator={address}", "--num_processes=2"]
    runs = [
        subprocess.Popen([*command, f"--process_id={i}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    done = [run.communicate(timeout=120) for run in runs]
    for run, (out, err) in zip(runs, done, strict=True):
        assert run.returncode == 0, err
        assert "(8, 3) 4 2 72.0" in out.splitlines()  # besides what Gloo says
        assert "does not divide over 2 devices" in out
