"""Simulations of one batch with different models: each as if its engine had that model alone."""

import copy

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from engine_models import SMOOTH, load, states

from envs.mujoco import engine
from gps.types import LinearGaussian, Status

BASE = load(SMOOTH, integrator="implicitfast")


def changed(**factors):
    model = copy.copy(BASE)
    for name, factor in factors.items():
        getattr(model, name)[:] *= factor
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


MODELS = [
    BASE,
    changed(body_mass=1.7, body_inertia=1.7),
    changed(dof_damping=5.0),
    changed(actuator_gainprm=0.4),
]
TOGETHER = engine(BASE, substeps=3, variants=MODELS[1:])


def batch(n=12):
    xs, us = states(BASE, n)
    which = jnp.arange(n) % len(MODELS)
    inputs = jax.vmap(lambda i: TOGETHER.make_inputs(variant=i))(which)
    return jnp.asarray(xs), jnp.asarray(us), which, inputs


def controller(xs, us, T=8):
    rng = np.random.default_rng(0)
    K = 0.1 * rng.normal(size=(T, BASE.nu, 2 * BASE.nv + BASE.na))
    return LinearGaussian(
        jnp.broadcast_to(xs, (T, xs.shape[0])), jnp.broadcast_to(us, (T, us.shape[0])), jnp.asarray(K), None
    )


CALLS = {
    "step": lambda sim, x, u, row: sim.step(x, u, row)[0],
    "sense": lambda sim, x, u, row: sim.sense(x, u, row),
    "linearize": lambda sim, x, u, row: sim.linearize(x, u, row),
    "rollout": lambda sim, x, u, row: sim.rollout(x, controller(x, u), jnp.zeros((8, BASE.nu)), row)[:3],
}


@pytest.mark.parametrize("name", CALLS)
def test_each_simulation_is_that_of_its_model(name):
    xs, us, which, inputs = batch()
    call = CALLS[name]
    found = jax.jit(jax.vmap(lambda *row: call(TOGETHER, *row)))(xs, us, inputs)
    differ = 0
    for number, model in enumerate(MODELS):
        alone = engine(model, substeps=3)
        mine = which == number
        wanted = jax.jit(jax.vmap(lambda x, u, sim=alone: call(sim, x, u, None)))(xs[mine], us[mine])
        jax.tree.map(lambda a, b, m=mine: np.testing.assert_array_equal(a[m], b), found, wanted)
        base = jax.jit(jax.vmap(lambda x, u: call(TOGETHER, x, u, None)))(xs[mine], us[mine])
        differ += any(
            np.any(a != b) for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(wanted), strict=True)
        )
    assert differ == 3 or (name == "sense" and differ >= 1), "models that do not differ show nothing"


def test_a_model_that_is_not_there_is_an_error_of_its_simulation_alone():
    xs, us, _, _ = batch(3)
    rows = jax.vmap(lambda i: TOGETHER.make_inputs(variant=i))(jnp.asarray([1.0, 4.0, 0.5]))
    found, status = jax.jit(jax.vmap(TOGETHER.step))(xs, us, rows)
    assert list(status) == [Status.OK, Status.ENGINE_ERROR, Status.ENGINE_ERROR]
    np.testing.assert_array_equal(found[1:], xs[1:])
    assert "there are 0 to 3" in TOGETHER.last_error()


def test_variants_are_checked():
    other = load(SMOOTH.replace("<freejoint/>", '<joint type="slide"/>'), integrator="implicitfast")
    with pytest.raises(ValueError, match="variant 1 of model 'smooth' has another n"):
        engine(BASE, variants=[other])
    seen = load(SMOOTH.replace("<worldbody>", "<worldbody><camera/>"), integrator="implicitfast")
    with pytest.raises(ValueError, match=r"variant 1 of model 'smooth' has another n(buffer|cam)"):
        engine(BASE, variants=[seen])
    slower = copy.copy(BASE)
    slower.opt.timestep = 0.01
    with pytest.raises(ValueError, match=r"variant 1 of model 'smooth' has another opt\.timestep"):
        engine(BASE, variants=[slower])
    rewired = copy.copy(BASE)
    rewired.actuator_trnid[0] = rewired.actuator_trnid[1]
    with pytest.raises(ValueError, match="has another actuator_trnid"):
        engine(BASE, variants=[rewired])
    with pytest.raises(ValueError, match="variant must be one of 0 to 3, got 7"):
        TOGETHER.make_inputs(variant=7)
    with pytest.raises(ValueError, match=r"variant 2 of model 'smooth' has another opt\.integrator"):
        engine(BASE, variants=[BASE, load(SMOOTH)])
    with pytest.raises(ValueError, match="this engine has one model"):
        engine(BASE, inputs=True).make_inputs(variant=1)
    with pytest.raises(ValueError, match="leave inputs=False out"):
        engine(BASE, variants=[BASE], inputs=False)
