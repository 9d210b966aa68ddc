"""One program on many devices and hosts: who am I, the mesh, and how a host's rows become part of a global batch.

Every host runs the same command, and says which one it is, by flags or by the environment:

| flag                     | environment              | meaning                                                       |
| ------------------------ | ------------------------ | ------------------------------------------------------------- |
| `--coordinator HOST:PORT`| `LSAP_JAX_COORDINATOR`   | address of process 0, reachable from all                      |
| `--num_processes N`      | `LSAP_JAX_NUM_PROCESSES` | how many there are                                            |
| `--process_id I`         | `LSAP_JAX_PROCESS_ID`    | which one this is, from 0                                     |
| `--distributed`          | `LSAP_JAX_DISTRIBUTED=1` | instead of the three: TPU pods, SLURM and Open MPI know them  |

Without any of them nothing is set up and the program runs alone, on all devices of its host.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from lsap_jax.errors import ConfigError

VARIABLE = "LSAP_JAX_"
_AXIS = "data"


class Processes(NamedTuple):
    """What was said about the processes of this run.

    Attributes:
      index: which one this is; None where the cluster knows.
      count: how many there are; None where the cluster knows.
      coordinator: HOST:PORT of process 0; None where the cluster knows.
    """

    index: int | None
    count: int | None
    coordinator: str | None


def define_flags() -> None:
    """Define the flags of this module, for commands that run on several hosts; once, however many ask."""
    if "distributed" in flags.FLAGS:
        return
    flags.DEFINE_bool("distributed", None, "several hosts that the cluster knows (TPU pod, SLURM, Open MPI)")
    flags.DEFINE_string("coordinator", None, "several hosts: HOST:PORT of process 0")
    flags.DEFINE_integer("num_processes", None, "several hosts: how many processes")
    flags.DEFINE_integer("process_id", None, "several hosts: which process this is, from 0")


def given(values: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Processes | None:
    """What flags, or else the environment, say; None for a program that runs alone.

    Args:
      values: of the flags, by name; those of the command line by default.
      environment: `os.environ` by default.

    Raises:
      ConfigError: if only a part was said, or a number is impossible.
    """
    environment = os.environ if environment is None else environment
    values = flags.FLAGS.flag_values_dict() if values is None else values

    def setting(name: str) -> Any:
        value = values.get(name)
        return environment.get(f"{VARIABLE}{name.upper()}") if value is None else value

    said = {name: setting(name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [name for name, value in said.items() if value is None]
    if len(missing) == 3:
        return Processes(None, None, None) if setting("distributed") in (True, "1", "true") else None
    if missing:
        raise ConfigError(f"--{missing[0]} is missing: several hosts need --coordinator, --num_processes, --process_id")
    try:
        count, index = int(said["num_processes"]), int(said["process_id"])
    except ValueError:
        raise ConfigError(f"num_processes and process_id must be whole numbers: {said}") from None
    if not 0 <= index < count:
        raise ConfigError(f"--process_id {index} of --num_processes {count}: they count from 0 to {count - 1}")
    return Processes(index, count, said["coordinator"])


def initialize_from_flags() -> None:
    """Connect the processes of this run; nothing where it runs alone. To be called before any other use of JAX.

    Raises:
      ConfigError: if what was said is incomplete, or `--distributed` is set where no cluster answers.
    """
    processes = given()
    if processes is None:
        return
    try:
        jax.distributed.initialize(processes.coordinator, processes.count, processes.index)
    except ValueError as error:
        raise ConfigError(
            f"--distributed: this cluster does not say where its processes are ({error}); "
            "use --coordinator, --num_processes and --process_id"
        ) from error


def mesh(local: bool = False) -> jax.sharding.Mesh:
    """All devices of all processes along one axis, "data"; or this process's own, for work without any talk."""
    devices = jax.local_devices() if local else jax.devices()
    return jax.make_mesh((len(devices),), (_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    """The leading axis split over the devices."""
    return jax.NamedSharding(mesh, jax.P(_AXIS))


def shard_batch(mesh: jax.sharding.Mesh, batch: Any) -> Any:
    """This process's rows of a batch -> global arrays, their leading axis split over the mesh.

    The global batch is the processes' rows one after another.

    Args:
      mesh: of `mesh`.
      batch: a tree of arrays (b, ...) of this process, b a multiple of its devices.

    Raises:
      ConfigError: if the rows do not divide evenly.
    """
    local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)

    def place(rows):
        if np.shape(rows)[0] % local:
            raise ConfigError(f"a batch of {np.shape(rows)[0]} images does not divide over {local} devices")
        return jax.make_array_from_process_local_data(batch_sharding(mesh), rows)

    return jax.tree.map(place, batch)


def replicate(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """The same values on every device: a tree of arrays that all processes hold alike -> global arrays."""
    everywhere = jax.NamedSharding(mesh, jax.P())
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(everywhere, np.asarray(x)), tree)
