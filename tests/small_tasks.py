"""Tasks small enough to be replayed by hand, with teachers and students of known gains."""

import jax
import jax.numpy as jnp
import numpy as np

from gps.episodes import MIXTURE
from gps.gaussian import Gaussian
from gps.plant import plant
from gps.types import Action, Observer, Student, Teacher, Unroll

# ---------------------------------------------------- a corridor where every part of an episode shows

A = np.array([[1.0, 0.3], [-0.1, 0.9]])
B = np.array([[0.1, 0.0], [0.05, 0.25]])
G = np.array([[0.6, -0.5], [0.3, 0.2]])
LOW, HIGH = np.array([-0.7, -0.5]), np.array([0.6, 0.8])
HORIZON, WALL, DISOWNED = 7, 1.2, 0.5
WEIGHTS = np.random.default_rng(3).normal(size=(2, 8)) * 0.4


def corridor(on_step=lambda x: None):
    """The context c pushes, is sensed and costs; failure is |x₀| > WALL; `on_step` runs at every step."""

    def bind(c):
        def dynamics(x, u):
            return A @ x + B @ u + jnp.stack([0.0 * c, 0.05 * c]) + 0.05 * jnp.sin(x)

        def sense(x, u):
            return jnp.stack([2 * x[0] + c, u[0] - x[1], c])

        def cost(x, u, y, t):
            return x @ x + 0.1 * (u @ u) + 0.3 * y[0] + y[1] * c + 0.01 * t

        env = plant(
            dynamics, cost, lambda x, y: x @ x, 2, 2, horizon=HORIZON, dt=0.5, limits=(LOW, HIGH),
            init=lambda key: jax.random.normal(key, (2,)) * 0.6, sense=sense, name="corridor",
        )  # fmt: skip

        def step(x, u):
            on_step(x)
            return env.step(x, u)

        return env._replace(
            step=step,
            failed=lambda x, y: jnp.abs(y[0] - y[2]) > 2 * WALL,
            observer=Observer(remember, observe),
            sample_context=lambda key: jax.random.uniform(key, ()),
            bind=bind,
            metrics=lambda x, u: {"speed": jnp.abs(x[1]), "push": c * u[0]},
        )

    return bind(jnp.asarray(0.3))


def remember(key):
    """A memory whose draw every observation of the episode shows."""
    return {"mark": jax.random.uniform(key), "sum": jnp.zeros(())}


def observe(key, memory, x, y, u):
    obs = {"x": x[:1], "y": y, "u": u, **memory, "noise": jax.random.normal(key)}
    return obs, memory | {"sum": memory["sum"] + x[0]}


def corridor_teacher(env):
    """Linear in state, time, context, first state and number of calls; shows its draws in Quu and q."""

    def init(key, x0):
        return {"mark": jax.random.uniform(key), "x0": x0, "calls": jnp.zeros(())}

    def act(key, state, x, t):
        c = env.sense(x, jnp.zeros(2))[2]
        mean = G @ x + 0.1 * c - 0.1 * state["x0"] + 0.03 * state["calls"] + 0.02 * t
        diagonal = jnp.stack([2 + state["mark"], 1.5])
        q = jnp.full(2, jax.random.normal(key))
        status = jnp.where(x[1] > DISOWNED, 3, 0)
        action = Action(Gaussian(mean, jnp.diag(1 / diagonal)), jnp.diag(diagonal), q, status)
        return action, state | {"calls": state["calls"] + 1}

    return Teacher(init, act)


def recurrent():
    """Linear in what it sees and in a leaky sum of its past."""

    def see(obs):
        return jnp.concatenate([obs["x"], obs["y"], obs["u"], obs["sum"][None], obs["noise"][None]])

    def apply(variables, obs, carry):
        return Gaussian(variables[0] @ see(obs) + carry, 0.3 * jnp.eye(2)), 0.5 * carry + obs["x"]

    return Student(
        lambda key, obs: (jnp.asarray(WEIGHTS), ()), lambda obs: jnp.zeros(2), apply, None, None, Unroll(4, 0)
    )


def noisy_mixture(key, share, action, dist, env):
    """Teacher and student mixed with noise that shows as the log-probability; hears of the context."""
    noise = jax.random.normal(key)
    c = env.sense(jnp.zeros(2), jnp.zeros(2))[2]
    u = share * action.dist.mean + (1 - share) * dist.mode() + 0.2 * noise + 0.05 * c
    return u, noise, jnp.int32(MIXTURE)


# --------------------------------------------------------------- a road that the teacher never leaves

GROWTH, EDGE, BEND = 1.15, 1.0, 0.5


def road(on_step=lambda x: None, on_failure=lambda failed: None):
    """Offset e from the middle of a winding road, phase s: e' = 1.15 e + u − bend(s), s' = s + .1.

    Episodes start in the middle; off the road (|e| > 1) they end.
    """

    def dynamics(x, u):
        return jnp.stack([GROWTH * x[0] + u[0] - bend(x[1]), x[1] + 0.1])

    raw = plant(
        dynamics, lambda x, u, y, t: x[0] ** 2 + 0.01 * u[0] ** 2, lambda x, y: x[0] ** 2, 2, 1,
        horizon=60, dt=0.1, limits=(-3.0, 3.0), name="road",
        init=lambda key: jnp.stack([0.0, jax.random.uniform(key, maxval=2 * jnp.pi)]),
    )  # fmt: skip

    def step(x, u):
        on_step(x)
        return raw.step(x, u)

    def failed(x, y):
        out = jnp.abs(x[0]) > EDGE
        on_failure(out)
        return out

    def see(key, memory, x, y, u):
        return jnp.stack([x[0], jnp.sin(x[1]), jnp.cos(x[1])]), memory

    env = raw._replace(step=step, failed=failed, observer=Observer(lambda key: (), see))
    return env._replace(bind=lambda context: env)


def bend(phase):
    """Of the road: what the controls must make up for."""
    return BEND * jnp.sin(3 * phase)


def road_teacher(env, on_act=lambda x: None, disowned=np.inf):
    """Back to the middle in one step; it disowns its label where |e| > `disowned`."""

    def act(key, state, x, t):
        on_act(x)
        mean = (bend(x[1]) - GROWTH * x[0])[None]
        status = jnp.where(jnp.abs(x[0]) > disowned, 1, 0)
        return Action(Gaussian(mean, jnp.eye(1) / 4), 4 * jnp.eye(1), -4 * mean, status), state

    return Teacher(lambda key, x0: (), act)


# ---------------------------------------------------------------------------- a plant that forgives

K_SWING = np.array([[2.0, 1.0]])


def swing():
    """A damped pendulum about its stable rest, held a little out of it: errors die out by themselves."""

    def dynamics(x, u):
        return x + 0.1 * jnp.stack([x[1], -jnp.sin(x[0]) - 0.5 * x[1] + u[0]])

    return plant(
        dynamics, lambda x, u, y, t: (x[0] - 0.5) ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2,
        lambda x, y: x[0] ** 2, 2, 1, horizon=50, dt=0.1, limits=(-2.0, 2.0), name="swing",
        init=lambda key: jax.random.normal(key, (2,)),
    )  # fmt: skip


def swing_teacher(env):
    """Proportional-derivative control to .5 with gravity made up for, inside the limits."""

    def act(key, state, x, t):
        mean = jnp.clip(np.sin(0.5) - K_SWING @ (x - jnp.array([0.5, 0.0])), -2.0, 2.0)
        return Action(Gaussian(mean, jnp.eye(1)), jnp.eye(1), -mean, jnp.int32(0)), state

    return Teacher(lambda key, x0: (), act)


def affine(nu=1):
    """The smallest student with parameters."""

    def apply(variables, obs, carry):
        weight, log_std = variables[0]
        value = weight[:, :-1] @ obs.astype(jnp.float32) + weight[:, -1]
        return Gaussian(value, jnp.diag(jnp.exp(2 * log_std))), carry

    return Student(
        lambda key, obs: ((0.1 * jax.random.normal(key, (nu, obs.shape[0] + 1), jnp.float32),
                           jnp.zeros(nu, jnp.float32)), ()),
        lambda obs: (), apply, None, lambda variables, obs, weight: variables,
    )  # fmt: skip


def constant():
    """The student that says the same wherever it is: a mean and a log standard deviation."""

    def apply(variables, obs, carry):
        mean, log_std = variables[0]
        return Gaussian(mean, jnp.exp(2 * log_std) * jnp.eye(1)), carry

    return Student(
        lambda key, obs: ((jnp.zeros(1), jnp.zeros(())), ()),
        lambda obs: (), apply, None, lambda variables, obs, weight: variables,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ comparing


def plain(leaf):
    """A leaf as NumPy, keys as their words."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def same(a, b):
    """Whether two trees hold the same numbers, NaN in the same places."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(plain(x), plain(y), equal_nan=True) for x, y in pairs)
