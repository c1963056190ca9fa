"""Multiple shooting: known optima, starts that no controls lead through, what a step does to the gaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import teachers
from benchmarks import known_answers
from envs.mjcf import from_mjcf
from gps.types import Trajectory
from teachers.planner import SolveStatus
from teachers.shooting import multiple_shooting

CARTPOLE, X0, _ = known_answers.crocoddyl_cartpole()
X0 = jnp.asarray(X0, float)


def nodes(env, xs, us=None):
    T = env.horizon
    us = jnp.zeros((T, env.nu)) if us is None else us
    return Trajectory(xs, us, jnp.zeros((T + 1, env.ny)), jnp.zeros(T + 1), jnp.int32(0))


def straight(env, x0, goal):
    share = jnp.linspace(0, 1, env.horizon + 1)[:, None]
    return nodes(env, x0[None] + share * (goal - x0)[None])


PROBLEMS = {
    "Crocoddyl's cart-pole": (known_answers.crocoddyl_cartpole(), 18.165607),
    "ALTRO's cart-pole, limited": (known_answers.altro_cartpole(3.0), 1.494334),
    "trajax's acrobot": (known_answers.acrobot(), 44.513285),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_known_optima_are_found_from_rollouts(name):
    (env, x0, us), best = PROBLEMS[name]
    solution, _ = jax.jit(multiple_shooting(env, iterations=200).solve)(
        jnp.asarray(x0, float), jnp.asarray(us)
    )
    assert solution.status == SolveStatus.CONVERGED
    np.testing.assert_allclose(solution.cost, best, rtol=1e-5)


def test_a_straight_line_to_the_goal_finds_what_rollouts_do_not():
    """Balancing from the start costs a quarter of what iLQR finds from zero controls."""
    planner = multiple_shooting(CARTPOLE)
    solution, _ = jax.jit(planner.solve)(X0, straight(CARTPOLE, X0, jnp.zeros(4)))
    assert solution.status == SolveStatus.CONVERGED
    assert solution.cost < 0.3 * 18.165607
    polished, _ = jax.jit(teachers.ilqr(CARTPOLE).solve)(X0, solution.trajectory.us)
    np.testing.assert_allclose(solution.cost, polished.cost, rtol=1e-5)


def test_a_step_leaves_its_share_of_every_gap():
    env, x0, _ = known_answers.acrobot()
    line = straight(env, jnp.asarray(x0), jnp.asarray([np.pi, 0, 0, 0]))
    step = jax.jit(multiple_shooting(env, iterations=1).improve)
    guess = multiple_shooting(env).begin(jnp.asarray(x0), line)

    def gaps(guess):
        landed = jax.vmap(lambda x, u: env.step(x, u)[0])(guess.xs[:-1], guess.us)
        return np.asarray(landed - guess.xs[1:])

    shares = []
    for _ in range(6):
        before = gaps(guess)
        _, guess = step(jax.random.key(0), jnp.asarray(x0), guess)
        after = gaps(guess)
        there = np.abs(before) > 1e-4
        share = after[there] / before[there]
        np.testing.assert_allclose(share, share[0], rtol=1e-6, atol=1e-9)
        shares.append(1 - share[0])
    assert all(min(abs(a - b) for b in [0, *0.5 ** np.arange(10)]) < 1e-6 for a in shares)
    assert 0 < min(shares) < 1, "no partial step was taken: the test shows nothing"


FREE = """
<mujoco><option timestep=".02" gravity="0 0 0"/>
  <worldbody><body><freejoint/><geom type="box" size=".2 .1 .05"/><site name="s"/></body></worldbody>
  <actuator>
    <motor site="s" gear="1 0 0 0 0 0"/><motor site="s" gear="0 1 0 0 0 0"/>
    <motor site="s" gear="0 0 1 0 0 0"/><motor site="s" gear="0 0 0 .1 0 0"/>
    <motor site="s" gear="0 0 0 0 .1 0"/><motor site="s" gear="0 0 0 0 0 .1"/>
  </actuator>
</mujoco>
"""


def test_on_a_manifold():
    """A body in space that has to turn and to move, started at scattered places and orientations."""
    turned = np.array([np.cos(0.6), 0, np.sin(0.6), 0])

    def cost(x, u, y, t):
        away = jnp.sum((x[:3] - 0.3) ** 2) + 2 * (1 - (x[3:7] @ turned) ** 2)
        return away + 0.05 * jnp.sum(x[7:] ** 2) + 1e-3 * jnp.sum(u**2)

    env = from_mjcf(FREE, cost, horizon=20)
    x0 = env.init(jax.random.key(0))
    scatter = 0.2 * jax.random.normal(jax.random.key(1), (21, env.ndx))
    start = nodes(env, jax.vmap(lambda d: env.plus(x0, d))(scatter))
    rolled, _ = jax.jit(teachers.ilqr(env).solve)(x0, start.us)
    solution, _ = jax.jit(multiple_shooting(env).solve)(x0, start)
    assert solution.status == SolveStatus.CONVERGED
    np.testing.assert_allclose(solution.cost, rolled.cost, rtol=1e-4)


def test_a_start_that_diverges_says_so():
    start = straight(CARTPOLE, X0, jnp.zeros(4))
    solution, _ = jax.jit(multiple_shooting(CARTPOLE).solve)(
        X0, start._replace(xs=start.xs.at[3].set(jnp.nan))
    )
    assert solution.status == SolveStatus.DIVERGED


WRONG = {
    "horizon >= 1 and iterations >= 1": {"horizon": 0},
    "grid needs step sizes above 0": {"grid": (0.0,)},
    "tolerance must be at least 0": {"tolerance": -1.0},
    "hessian must be one of": {"hessian": "gauss-newton"},
    "schedule is": {"schedule": (0.0, 1.0, 0.5, 2.0)},
}


@pytest.mark.parametrize("words", WRONG)
def test_settings_that_cannot_work_say_so(words):
    with pytest.raises(ValueError, match=words):
        multiple_shooting(CARTPOLE, **WRONG[words])
