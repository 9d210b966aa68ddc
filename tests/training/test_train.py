"""The trainer: one step's numbers, resume, devices, evaluation, and what goes wrong."""

import copy
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lsap_jax import objectives, train
from lsap_jax.config import Data, Loss
from lsap_jax.errors import ConfigError, LsapError, TrainingError
from lsap_jax.networks import encoder_files
from lsap_jax.training import initial, update
from lsap_jax.training import state as training_state
from lsap_jax.training.update import Frozen

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "training" / "golden_step.json"


def frozen_for(G, options):
    terms = update.terms_of(options.loss, update.CODE_TERMS + update.IMAGE_TERMS)
    start = jnp.broadcast_to(G.w_avg, (G.num_ws, G.w_dim))
    return Frozen(G, objectives.judges_for(G, terms), start, jnp.float32(1))


def begin(options, G):
    """(state, update function, what stays) of a run."""
    arch = train.describe(options, G)
    state = training_state.init(options, arch, initial.variables("", arch, options.seed))
    return state, jax.jit(update.make_update(options, arch, rendering=True)), frozen_for(G, options)


def metrics_of(folder, split="train"):
    lines = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.pop("split") == split]


def assert_same_state(a, b):
    def same(path, x, y):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))

    jax.tree.map_with_path(same, jax.device_get(a), jax.device_get(b))


def test_numbers_of_the_third_step(config):
    """Twelve numbers that any change of the loss, the draws, the critic or the optimiser moves.

    If you meant to change one of these, write the new numbers: python -m pytest tests/training -k numbers prints them.
    """
    G, options = tiny.generator(), config.train
    state, step, frozen = begin(options, G)
    for _ in range(3):
        state, metrics = step(state, frozen, {})
    got = {name: float(value) for name, value in sorted(metrics.items())}
    got["ema_change"] = float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, state.ema)))
    print(json.dumps(got, indent=1))
    want = json.loads(FIXTURE.read_text())
    assert len(want) == 12
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=2e-3, abs=1e-5), f"{name}: is this change intended?"


def test_a_resumed_run_has_the_bits_of_a_straight_one(config, tmp_path):
    straight = train.train(copy.deepcopy(config), str(tmp_path / "straight"))
    config.train.steps = 3
    train.train(copy.deepcopy(config), str(tmp_path / "stopped"))
    config.train.steps = 6
    resumed = train.train(config, str(tmp_path / "stopped"))
    assert int(resumed.step) == 6
    assert resumed.latent_critic.real.count == 6  # the pool of 6 is full
    assert_same_state(straight, resumed)
    assert metrics_of(tmp_path / "straight") == metrics_of(tmp_path / "stopped")
    assert metrics_of(tmp_path / "straight", "eval") == metrics_of(tmp_path / "stopped", "eval")


def test_what_a_run_leaves(config, tmp_path):
    config.train.steps = 3
    state = train.train(config, str(tmp_path))
    E = encoder_files.load(tmp_path / "encoder.npz")
    G = tiny.generator()
    assert E.generator == G.fingerprint
    assert_same_state(E.variables, state.variables)  # the mean of the weights, which evaluation saw
    assert E(tiny.photos(G, 2)).shape == (2, G.num_ws, G.w_dim)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3"]
    assert (tmp_path / "pictures" / "0000003.png").exists()
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 3


def test_sigterm_saves_and_the_same_command_goes_on(config, generator_file, tmp_path):
    flags = [f"--config.generator={generator_file}", "--config.train.steps=100000"]
    flags += ["--config.train.eval_every=0", "--config.train.save_every=1000"]
    command = [
        sys.executable,
        "-m",
        "lsap_jax.train",
        "--config",
        "configs/tiny.py",
        "--workdir",
        str(tmp_path),
        *flags,
    ]
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "metrics.jsonl").exists() or len(metrics_of(tmp_path)) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "the same command goes on" in errors
    (saved,) = (int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert saved == metrics_of(tmp_path)[-1]["step"]
    # A straight run of as many steps ends in the same place.
    config.train = dataclasses.replace(config.train, steps=saved, eval_every=0, save_every=1000)
    train.train(config, str(tmp_path / "straight"))
    assert metrics_of(tmp_path / "straight") == metrics_of(tmp_path)


@pytest.mark.parametrize("devices", [4])
def test_four_devices_are_one(config, generator_file, tmp_path, devices):
    for count in (1, devices):
        _run_devices(generator_file, tmp_path / str(count), count)
    _assert_close_runs(tmp_path / "1", tmp_path / str(devices))


def test_two_processes_are_one(generator_file, tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    hosts = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    together = [_start(generator_file, tmp_path / "two", 1, [*hosts, f"--process_id={index}"]) for index in range(2)]
    for process in together:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    _run_devices(generator_file, tmp_path / "one", 1)
    _assert_close_runs(tmp_path / "one", tmp_path / "two")


def _start(generator_file, workdir, devices, flags=()):
    command = [sys.executable, "-m", "lsap_jax.train", "--config", "configs/tiny.py", "--workdir", str(workdir)]
    command += [f"--config.generator={generator_file}", "--config.train.steps=4", *flags]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)


def _run_devices(generator_file, workdir, devices):
    process = _start(generator_file, workdir, devices)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def _assert_close_runs(one, other):
    for split in ("train", "eval"):
        a, b = metrics_of(one, split), metrics_of(other, split)
        assert len(a) == len(b) > 0
        for x, y in zip(a, b, strict=True):
            assert x == pytest.approx(y, rel=1e-3, abs=1e-5)


def test_evaluation_does_not_depend_on_the_batch_size(config, tmp_path):
    config.train.steps, config.train.data.validation_count = 1, 5
    seen = []
    for size in (2, 5, 8):
        some = copy.deepcopy(config)
        some.train.eval_batch_size = size
        train.train(some, str(tmp_path / str(size)))
        (line,) = metrics_of(tmp_path / str(size), "eval")
        seen.append(line)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)
    assert seen[0] == pytest.approx(seen[2], rel=1e-5)


def test_every_stage_runs_in_one_program(config):
    G, options = tiny.generator(), config.train
    state, step, frozen = begin(options, G)
    for _ in range(5):  # rows open in steps 2, 3, ...
        state, _ = step(state, frozen, {})
    assert step._cache_size() == 1


def test_microbatches_are_one_batch(config):
    """Without batch norm, critics and draws for each part, gradients of parts add up to those of the whole."""
    G, options = tiny.generator(), config.train
    options.encoder = dataclasses.replace(options.encoder, trunk="dlib", stages=((4, 1), (8, 1), (8, 1)))
    options.loss = Loss(l2=1.0, regression=1.0, delta=1e-3)
    options.noise, options.optimizer = "const", "sgd"
    states = []
    for parts in (1, 2):
        options.microbatches = parts
        state, step, frozen = begin(options, G)
        state, metrics = step(state, frozen, {})
        states.append((state.params, metrics["loss"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *states)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder.input": "rgb+render", "encoder.levels": "last", "iterations": 2},
        {"encoder.input": "rgb+mask", "encoder.start": "zero", "encoder.head": "psp"},
        {"loss.critic": 0.1, "optimizer": "adamw", "clip": 1.0, "schedule": "cosine", "warmup": 1},
    ],
    ids=["restyle", "mask", "image critic"],
)
def test_other_recipes_learn(config, changes):
    """A few steps on one batch bring its loss down."""
    G, options = tiny.generator(), config.train
    options.loss = Loss(l2=1.0, regression=1.0)
    options.learning_rate, options.steps, options.progressive_start, options.progressive_every = 3e-3, 30, 0, 0
    options.ema = 0.0
    for name, value in changes.items():
        *inner, field = name.split(".")
        setattr(getattr(options, inner[0]) if inner else options, field, value)
    state, step, frozen = begin(options, G)
    images = tiny.photos(G, 4)
    batch = {
        "image": jnp.round((images + 1) * 127.5).astype(jnp.uint8),
        "ws": jnp.zeros((4, G.num_ws, G.w_dim)),
        "has_ws": jnp.zeros(4, bool),
    }
    losses = []
    for _ in range(30):
        state, metrics = step(state, frozen, batch)
        assert all(np.isfinite(float(v)) for v in metrics.values())
        losses.append(float(metrics["l2"]))
    assert float(metrics["regression"]) == 0.0  # no code is known here
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    config.train.learning_rate = 1e30
    with pytest.raises(TrainingError, match=r"step \d: \w+ is (nan|inf)"):
        train.train(config, str(tmp_path))
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert not saved  # nothing of a broken state is kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5, "microbatches": 2}, "batch_size=5"),
        ({"optimizer": "newton"}, "optimizer='newton'"),
        ({"schedule": "steps"}, "schedule='steps'"),
        ({"noise": "none"}, "noise='none'"),
        ({"loss": Loss()}, "no weight"),
        ({"loss": Loss(moco=0.5)}, "moco_v2_800ep_pretrain"),
        ({"data": Data(source="folder:/nowhere"), "loss": Loss(l2=1.0)}, "/nowhere"),
        ({"data": Data(source="samples:/nowhere")}, "/nowhere"),
        ({"data": Data(source="folder:/nowhere")}, "regression needs known codes"),
        ({"data": Data(source="web:faces"), "loss": Loss(l2=1.0)}, "web:faces"),
        ({"id_weights": "/nowhere/ir.pth", "loss": Loss(id=1.0)}, "/nowhere/ir.pth"),
    ],
)
def test_what_is_missing_or_impossible_is_said_at_once(config, tmp_path, changes, message):
    config.train = dataclasses.replace(config.train, **changes)
    with pytest.raises(LsapError, match=message.replace("(", r"\(")):
        train.train(config, str(tmp_path))


def test_another_configuration_does_not_go_on_in_the_same_folder(config, tmp_path):
    config.train.steps = 1
    train.train(copy.deepcopy(config), str(tmp_path))
    config.train.loss.l2 = 0.5
    with pytest.raises(ConfigError, match=r"config\.train\.loss\.l2"):
        train.train(config, str(tmp_path))
