"""Imitation learning by the library imitation (PyTorch and Stable-Baselines3), and by us.

It needs an older gymnasium than ours: install it with this project's core in an environment of its own
(`pip install torch imitation .`) and run `python -m benchmarks.learning_speed --only …` there.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Row, installed, load, time_ratio
from benchmarks.students import fitting, labelled
from gps.algorithms.dagger import dagger
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.plant import plant
from gps.types import Action, Env, Gaussian, Observer, Teacher
from students.losses import nll
from students.policies import mlp

SEED = 0
HIDDEN, BATCH = (32, 32), 64


def bc(fast: bool) -> list[Row]:
    """An epoch of behaviour cloning: 32×32 tanh, batches of 64, Adam, 11 numbers seen, 3 labels."""
    n, figure = BATCH * (50 if fast else 1000), "BC, an epoch of 64000 samples: imitation ÷ ours, time"
    if not installed("imitation"):
        return [Row(figure, None, "1", ">= 10")]
    gymnasium, torch = load("gymnasium"), load("torch")
    cloning, types = load("imitation.algorithms.bc"), load("imitation.data.types")
    dataset = labelled(n, 11, 3)
    ours = fitting(dataset, mlp(3, HIDDEN), nll(), batch_size=BATCH, epochs=1)
    obs, acts = (np.asarray(part, np.float32) for part in (dataset.obs, dataset.mean))
    nothing = np.array([{}] * n)
    told = types.Transitions(obs=obs, acts=acts, infos=nothing, next_obs=obs, dones=np.zeros(n, bool))
    torch.set_num_threads(1)  # faster than two on so small a network
    trainer = cloning.BC(
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (11,)),
        action_space=gymnasium.spaces.Box(-1, 1, (3,)),
        rng=np.random.default_rng(SEED),
        demonstrations=told,
        batch_size=BATCH,
        custom_logger=_silent(),
    )
    ratio = time_ratio(ours, lambda: trainer.train(n_epochs=1, progress_bar=False), 2 if fast else 7)
    return [
        Row(figure, 1 / ratio.median, "1", ">= 10"),
        Row("BC: ours", n / ratio.a.median, "samples/s"),
        Row("BC: imitation", n / ratio.b.median, "samples/s"),
    ]


WORLDS, EPISODE, ROUNDS, UPDATES = 8, 200, 6, 250


def dagger_on_pendulum(fast: bool) -> list[Row]:
    """Gymnasium's Pendulum-v1, 6 rounds of 8 episodes and 250 updates; a formula is the teacher.

    Theirs steps gymnasium's NumPy pendulum, ours the same equations as a JAX plant; without compiling.
    """
    figure = "DAgger, Pendulum, 9600 steps: imitation ÷ ours, time"
    if not installed("imitation"):
        return [Row(figure, None, "1", ">= 5")]
    rounds, env = 2 if fast else ROUNDS, pendulum_v1()
    student = mlp(1, hidden=HIDDEN, limits=env.limits)
    algorithm = dagger(
        env,
        formula,
        student,
        iterations=rounds,
        num_worlds=WORLDS,
        num_steps=EPISODE,
        updates=UPDATES,
        batch_size=BATCH,
        test_worlds=0,
    )

    def ours() -> Any:
        state = algorithm.init(jax.random.key(SEED))
        for i in range(rounds):
            state, _ = algorithm.step(jax.random.key(SEED + 1 + i), state)
        return algorithm.policy(state)

    theirs, judge = _their_dagger(rounds)
    ratio = time_ratio(ours, theirs, 1 if fast else 3)
    keys = jax.random.split(jax.random.key(100), 4 if fast else 100)
    scores, _ = cpu_jit(evaluate(env, student=student))(keys, ours())
    taught, _ = cpu_jit(evaluate(env, make_teacher=formula))(keys, ())
    return [
        Row(figure, 1 / ratio.median, "1", ">= 5"),
        Row("DAgger: ours", ratio.a.median, "s"),
        Row("DAgger: imitation", ratio.b.median, "s"),
        Row("DAgger: return of ours, mean of 100", -EPISODE * float(jnp.mean(scores.cost)), "reward"),
        Row("DAgger: return of imitation's, mean of 100", judge(len(keys)), "reward"),
        Row("DAgger: return of the teacher, mean of 100", -EPISODE * float(jnp.mean(taught.cost)), "reward"),
    ]


# ------------------------------------------------------------------------------------ the task


def pendulum_v1() -> Env:
    """Gymnasium's Pendulum-v1 as a plant: x = (angle, velocity), u = torque."""

    def dynamics(x: jax.Array, u: jax.Array) -> jax.Array:
        velocity = jnp.clip(x[1] + 0.05 * (15 * jnp.sin(x[0]) + 3 * u[0]), -8, 8)
        return jnp.stack([x[0] + 0.05 * velocity, velocity])

    def cost(x: jax.Array, u: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        angle = jnp.mod(x[0] + jnp.pi, 2 * jnp.pi) - jnp.pi
        return angle**2 + 0.1 * x[1] ** 2 + 0.001 * u[0] ** 2

    def start(key: jax.Array) -> jax.Array:
        return jnp.array([jnp.pi, 1.0]) * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)

    def see(key: jax.Array, memory: Any, x: jax.Array, y: jax.Array, u: jax.Array) -> tuple[jax.Array, Any]:
        return jnp.stack([jnp.cos(x[0]), jnp.sin(x[0]), x[1]]), memory

    limits, nothing = (-2.0, 2.0), lambda x, y: jnp.zeros(())
    made = plant(dynamics, cost, nothing, 2, 1, horizon=EPISODE, dt=0.05, limits=limits, init=start)
    env = made._replace(observer=Observer(lambda key: (), see))
    return env._replace(bind=lambda context: env)


def formula_control(obs: Any, xp: Any) -> Any:
    """(cos, sin, velocity) [..., 3] → torque [..., 1]: give it the energy of standing, then hold it."""
    angle, velocity = xp.arctan2(obs[..., 1], obs[..., 0]), obs[..., 2]
    missing = 15 - (0.5 * velocity**2 + 15 * obs[..., 0])
    swing = 2 * missing * xp.where(velocity < 0, -1.0, 1.0)
    held = -10 * angle - 2 * velocity
    return xp.clip(xp.where(obs[..., 0] > 0.92, held, swing), -2.0, 2.0)[..., None]


def formula(env: Env) -> Teacher:
    """`formula_control` as a teacher, with a standard deviation of .1."""

    def act(key: jax.Array, state: Any, x: jax.Array, t: jax.Array) -> tuple[Action, Any]:
        u = formula_control(jnp.stack([jnp.cos(x[0]), jnp.sin(x[0]), x[1]]), jnp)
        precision = 100 * jnp.eye(1)
        label = Gaussian(u, 0.01 * jnp.eye(1))
        return Action(label, precision, -precision @ u, jnp.int32(0), jnp.zeros((1, 2))), state

    return Teacher(lambda key, x: (), act)


# ------------------------------------------------------------------------------------ theirs


def _silent() -> Any:
    return load("imitation.util.logger").configure(tempfile.mkdtemp(), [])


def _their_dagger(rounds: int) -> tuple[Callable[[], None], Callable[[int], float]]:
    """(train, number of episodes → mean return of what was trained last)."""
    cloning, daggers = load("imitation.algorithms.bc"), load("imitation.algorithms.dagger")
    policies, torch = load("stable_baselines3.common.policies"), load("torch")
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    worlds = load("imitation.util.util").make_vec_env("Pendulum-v1", rng=rng, n_envs=WORLDS)

    class Formula(policies.BasePolicy):
        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            return torch.as_tensor(formula_control(observation.numpy(), np), dtype=torch.float32)

    expert, last = Formula(worlds.observation_space, worlds.action_space), []

    def train() -> None:
        trainer = cloning.BC(
            observation_space=worlds.observation_space,
            action_space=worlds.action_space,
            rng=rng,
            batch_size=BATCH,
            custom_logger=_silent(),
        )
        with tempfile.TemporaryDirectory() as folder:
            student = daggers.SimpleDAggerTrainer(
                venv=worlds,
                scratch_dir=folder,
                expert_policy=expert,
                rng=rng,
                bc_trainer=trainer,
                custom_logger=_silent(),
            )
            student.train(
                rounds * WORLDS * EPISODE,
                rollout_round_min_episodes=WORLDS,
                rollout_round_min_timesteps=0,
                bc_train_kwargs={"n_batches": UPDATES, "progress_bar": False},
            )
        last.append(student.policy)

    def judge(episodes: int) -> float:
        return load("stable_baselines3.common.evaluation").evaluate_policy(last[-1], worlds, episodes)[0]

    return train, judge
