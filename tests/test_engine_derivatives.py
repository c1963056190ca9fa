"""Derivatives of the engine's calls against MuJoCo's own steps in NumPy."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from engine_models import CONTACT, INTEGRATORS, SMOOTH, load, loop, minus, plus, read, states, write

from envs.mujoco import engine
from gps.types import LinearGaussian

STEPS = np.array([4e-3, 2e-3])  # of the Taylor remainders: their order is read off two sizes


def order(remainders):
    """Exponent p of |remainder| ∝ h^p."""
    small, large = (np.linalg.norm(r) for r in remainders[::-1])
    return np.log(large / small) / np.log(STEPS[0] / STEPS[1])


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("substeps", [1, 3])
def test_taylor_remainder_of_step_and_sense_is_second_order(integrator, substeps):
    model = load(SMOOTH, integrator)
    env = engine(model, substeps=substeps, centered=substeps == 1)
    x, u = (a[0] for a in states(model, 1, seed=5))
    local = env.linearize(x, u)
    rng = np.random.default_rng(0)
    dx, du = rng.standard_normal(env.ndx), rng.standard_normal(env.nu)
    x_next, y = loop(model, x, u, substeps)
    ends = [loop(model, plus(model, x, h * dx), u + h * du, substeps) for h in STEPS]
    of_step = [
        minus(model, x_h, x_next) - h * (local.A @ dx + local.B @ du)
        for h, (x_h, _) in zip(STEPS, ends, strict=True)
    ]
    of_sense = [y_h - y - h * (local.C @ dx + local.D @ du) for h, (_, y_h) in zip(STEPS, ends, strict=True)]
    assert 1.9 <= order(of_step) <= 2.1
    assert 1.9 <= order(of_sense) <= 2.1
    assert np.linalg.norm(local.B @ du) > 1e-3


def test_gradients_of_step_sense_and_rollout():
    model = load(SMOOTH)
    env = engine(model, substeps=2, centered=True)
    T = 6
    xs_ref, us_ref = states(model, T, seed=1, spread=0.1)
    x, u = xs_ref[0], us_ref[0]
    rng = np.random.default_rng(2)
    K, noise = 0.1 * rng.standard_normal((T, env.nu, env.ndx)), 0.1 * rng.standard_normal((T, env.nu))
    weights = [rng.standard_normal(n) for n in (env.nx, env.ny)]

    def chain(x, u, xs_ref, us_ref, K, noise):
        controller = LinearGaussian(xs_ref, us_ref, K, jnp.zeros(()))
        made = env.rollout(env.step(x, u)[0], controller, noise)
        return (made.xs @ weights[0]).sum() + jnp.sin(made.ys @ weights[1]).sum() + (made.us**2).sum()

    def sensed(x, u):
        return env.sense(x, u) @ weights[1]

    args = (x, u, xs_ref, us_ref, K, noise)
    tangents = [rng.standard_normal(a.shape) for a in args[1:]]
    dx, dxs_ref = rng.standard_normal(env.ndx), 0.1 * rng.standard_normal((T, env.ndx))

    def moved(h):  # along the manifold in the states, straight in the rest
        xs = np.array([plus(model, a, h * b) for a, b in zip(xs_ref, dxs_ref, strict=True)])
        rest = [a + h * b for a, b in zip((u, us_ref, K, noise), (tangents[0], *tangents[2:]), strict=True)]
        return plus(model, x, h * dx), rest[0], xs, *rest[1:]

    h = 1e-5
    slopes = [(b - a) / (2 * h) for a, b in zip(moved(-h), moved(h), strict=True)]
    grads = jax.jit(jax.grad(chain, argnums=range(6)))(*args)
    directional = sum(np.vdot(g, s) for g, s in zip(grads, slopes, strict=True))
    value = jax.jit(chain)
    np.testing.assert_allclose(directional, (value(*moved(h)) - value(*moved(-h))) / (2 * h), rtol=1e-5)
    _, forward = jax.jit(lambda *tangents: jax.jvp(chain, args, tangents))(*slopes)
    np.testing.assert_allclose(forward, directional, rtol=1e-9)
    _, slope = jax.jvp(sensed, (x, u), tuple(slopes[:2]))
    np.testing.assert_allclose(slope, (sensed(*moved(h)[:2]) - sensed(*moved(-h)[:2])) / (2 * h), rtol=1e-5)


def test_rollout_gradient_respects_the_limits():
    model = load(SMOOTH)
    env = engine(model)
    x, u = (a[0] for a in states(model, 1))
    controller = lambda us: LinearGaussian(x[None], us, jnp.zeros((1, env.nu, env.ndx)), jnp.zeros(()))  # noqa: E731
    loss = lambda us: env.rollout(x, controller(us), jnp.zeros((1, env.nu))).xs[-1].sum()  # noqa: E731
    grad = jax.jit(jax.grad(loss))
    inside, beyond = grad(u[None])[0], grad(u[None] + 9 * np.eye(6)[:1])[0]
    assert inside[0] != 0
    assert beyond[0] == 0
    np.testing.assert_allclose(beyond[3:], inside[3:], rtol=1e-2)


def test_differences_stay_inside_the_limits():
    """At a limit the column is taken inwards, beyond it there is nothing to feel."""
    model = load(SMOOTH)
    x, u = (a[0] for a in states(model, 1))
    for centered in (False, True):
        env = engine(model, centered=centered)
        inside = env.linearize(x, np.r_[0.5, u[1:]]).B[:, 0]
        for at in (-1.0, 1.0):
            np.testing.assert_allclose(
                env.linearize(x, np.r_[at, u[1:]]).B[:, 0], inside, rtol=1e-3, atol=1e-7
            )
        np.testing.assert_allclose(env.linearize(x, np.r_[3.0, u[1:]]).B[:, 0], 0)


@pytest.mark.parametrize("integrator", ["Euler", "implicitfast", "discrete", "RK4"])
def test_contact_model_agrees_with_differences_of_mj_step(integrator):
    """Same eps, same (converged) warm start; columns across a contact switch are left out, and few."""
    model = load(CONTACT, integrator)
    env = engine(model)
    xs, us = states(model, 8, seed=4, settle=70, spread=0.15)
    made = jax.jit(jax.vmap(env.linearize))(xs, us)
    tight = load(CONTACT, integrator)  # the reference must not show what its solver leaves, divided by eps
    tight.opt.tolerance = 1e-13
    switched, touching = 0, 0
    for i, (x, u) in enumerate(zip(xs, us, strict=True)):
        A, B, C, D, kept, contacts = _differences(tight, x, u, eps=1e-6)
        touching += contacts > 0
        switched += np.sum(~kept)
        for ours, theirs, columns in (
            (made.A[i], A, kept[: env.ndx]),
            (made.B[i], B, kept[env.ndx :]),
            (made.C[i], C, kept[: env.ndx]),
            (made.D[i], D, kept[env.ndx :]),
        ):
            scale = max(np.abs(theirs).max(), 1.0)
            np.testing.assert_allclose(ours[:, columns], theirs[:, columns], rtol=0, atol=1e-4 * scale)
    assert touching >= 4
    assert switched <= 0.1 * len(xs) * (env.ndx + env.nu)


def _differences(model, x, u, eps):
    d = mujoco.MjData(model)
    ndx = 2 * model.nv + model.na
    write(d, x)
    d.ctrl[:] = u
    mujoco.mj_forward(model, d)
    warm = d.qacc.copy()

    def end(x, u):
        write(d, x)
        d.ctrl[:], d.qacc_warmstart[:] = u, warm
        mujoco.mj_forward(model, d)
        mode = (d.ncon, d.efc_state.tobytes())
        mujoco.mj_step(model, d)
        return read(d), d.sensordata.copy(), mode

    x0, y0, mode = end(x, u)
    contacts = d.ncon
    columns, kept = [], []
    for j in range(ndx + model.nu):
        e = eps * np.eye(ndx + model.nu)[j]
        x1, y1, mode1 = end(plus(model, x, e[:ndx]), u + e[ndx:])
        columns.append(np.concatenate([minus(model, x1, x0), y1 - y0]) / eps)
        kept.append(mode1 == mode)
    J = np.transpose(columns)
    return J[:ndx, :ndx], J[:ndx, ndx:], J[ndx:, :ndx], J[ndx:, ndx:], np.array(kept), contacts


@pytest.mark.parametrize("solver", ["CG", "PGS", "CG stopped early"])
def test_solvers_that_do_not_converge_start_every_column_at_the_nominal(solver):
    """Otherwise the difference between two warm starts, divided by eps, drowns the derivative."""
    model = load(CONTACT)
    model.opt.solver = mujoco.mjtSolver.mjSOL_PGS if solver == "PGS" else mujoco.mjtSolver.mjSOL_CG
    model.opt.iterations = 6 if solver == "CG stopped early" else 100
    xs, us = states(load(CONTACT), 4, seed=4, settle=60, spread=0.15)
    made = jax.vmap(engine(model).linearize)(xs, us)
    exact = jax.vmap(engine(load(CONTACT)).linearize)(xs, us)
    for ours, theirs in zip(made.A, exact.A, strict=True):
        assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


def test_sensors_of_time_have_no_derivative():
    """Columns start at the time of the nominal step, also where they are whole steps."""
    for integrator in INTEGRATORS:
        env = engine(load(SMOOTH, integrator), substeps=2)
        x, u = (a[0] for a in states(env.model, 1))
        local = env.linearize(x, u)
        np.testing.assert_array_equal(local.C[9], 0)  # <clock/>
        np.testing.assert_array_equal(local.D[9], 0)


def test_gradient_with_respect_to_inputs_raises():
    env = engine(load(SMOOTH))
    x, u = (a[0] for a in states(env.model, 1))
    controller = LinearGaussian(x[None], u[None], np.zeros((1, env.nu, env.ndx)), np.zeros(()))
    for call in (
        lambda row: env.step(x, u, row)[0].sum(),
        lambda row: env.sense(x, u, row).sum(),
        lambda row: env.rollout(x, controller, np.zeros((1, env.nu)), row).xs.sum(),
    ):
        with pytest.raises(NotImplementedError, match="not differentiable with respect to its inputs"):
            jax.grad(call)(env.make_inputs())
        assert np.isfinite(call(jax.lax.stop_gradient(env.make_inputs())))


def test_derivative_of_a_derivative_raises():
    env = engine(load(SMOOTH))
    x, u = (a[0] for a in states(env.model, 1))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: env.linearize(x, u).A.sum())(x)


def test_failed_knots_hold_the_state_and_its_derivative():
    model = load(SMOOTH)
    env = engine(model)
    x, u = (a[0] for a in states(model, 1))
    T = 4
    noise = np.zeros((T, env.nu))
    noise[2, 3] = 1e300  # an unlimited motor: the third step diverges
    controller = LinearGaussian(
        np.tile(x, (T, 1)), np.tile(u, (T, 1)), np.zeros((T, env.nu, env.ndx)), np.zeros(())
    )
    dx = np.random.default_rng(1).standard_normal(env.nx)

    def slope(T):
        short = LinearGaussian(controller.xs[:T], controller.us[:T], controller.K[:T], controller.cov)
        return jax.jit(lambda x: jax.jvp(lambda x: env.rollout(x, short, noise[:T]).xs[-1], (x,), (dx,)))(x)[
            1
        ]

    np.testing.assert_allclose(slope(4), slope(2), rtol=0, atol=1e-13)
    held = jax.jit(lambda x: jax.jvp(lambda x: env.step(x, u + noise[2])[0], (x,), (slope(2),)))(x)
    np.testing.assert_array_equal(held[0], x)
    assert np.all(np.isfinite(held[1]))
