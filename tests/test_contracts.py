"""One list of everything that can be exchanged × the properties that users rely on."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import plain, same

from gps.algorithms.bc import bc
from gps.algorithms.coaching import coaching
from gps.algorithms.dagger import dagger
from gps.algorithms.imitation import COUNTED
from gps.algorithms.plato import plato
from students.policies import mlp
from teachers.mpc import mpc
from teachers.planned import planned

ALGORITHMS = {"bc": bc, "dagger": dagger, "plato": plato, "coaching": coaching}
STUDENTS = {
    "mlp": {},
    "mlp with labels' covariance": {"covariance": "labels"},
    "mlp that sees its covariance": {"covariance": "network"},
}
TEACHERS = {
    "mpc": lambda env: mpc(env, horizon=5, initial_iterations=0),
    "planned": lambda env: planned(env, horizon=5, iterations=2),
}
KEY, OTHER = jax.random.split(jax.random.key(31))


def copy(tree):
    """A tree's bits, kept apart from its buffers."""
    return jax.tree.map(lambda leaf: plain(leaf).copy(), tree)


# ---------------------------------------------------------------------------------------- algorithms


@cache
def algorithm(name):
    budget = {"num_worlds": 2, "num_steps": 10, "updates": 3, "batch_size": 8, "test_worlds": 2}
    return ALGORITHMS[name](tasks.road(), tasks.road_teacher, tasks.affine(), iterations=2, **budget)


@cache
def stepped(name):
    """(state before, its bits before the step, state after, info) of the second iteration."""
    state, _ = algorithm(name).step(OTHER, algorithm(name).init(KEY))
    bits = copy(state)
    return state, bits, *algorithm(name).step(KEY, state)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_leaves_its_state_alone(name):
    before, bits, after, _ = stepped(name)
    assert same(before, bits) and not same(before, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_repeats_itself_with_the_same_key_only(name):
    before, _, after, info = stepped(name)
    again, info_again = algorithm(name).step(KEY, before)
    assert same(after, again) and same(info, info_again)
    other, _ = algorithm(name).step(OTHER, before)
    assert not same(after.dataset.x, other.dataset.x) and not same(after.fit.variables, other.fit.variables)
    first, second = (algorithm(name).init(key) for key in (KEY, OTHER))
    assert same(first, algorithm(name).init(KEY)) and not same(first.fit, second.fit)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_info_of_an_algorithm_is_finite_and_counts(name):
    info = stepped(name)[3]
    for entry, value in info.items():
        assert np.shape(value) == () and np.isfinite(np.asarray(value, float)), entry
    assert {*COUNTED, *(f"total_{entry}" for entry in COUNTED)} <= set(info)
    assert {"loss", "kl", "driver_cost", "student_cost", "student_time", "finite"} <= set(info)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_policy_of_an_algorithm_is_its_students_variables(name):
    state = stepped(name)[2]
    dist, _ = jax.jit(tasks.affine().apply)(algorithm(name).policy(state), jnp.ones(3), ())
    assert dist.mean.shape == (1,) and np.all(np.isfinite(dist.mean))


# ------------------------------------------------------------------------------------------ students


@cache
def student(name, dtype=jnp.float32):
    made = mlp(2, (5,), dtype=dtype, **STUDENTS[name])
    names = ("init", "apply", "apply_sequence", "observe_statistics")
    return made._replace(**{field: jax.jit(getattr(made, field)) for field in names})


def sights(n=6):
    rng = np.random.default_rng(8)
    return {"a": jnp.asarray(rng.normal(size=(n, 3))), "b": jnp.asarray(rng.normal(size=(n, 2, 1)))}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_pure_and_its_key_matters(name):
    made, obs = student(name), jax.tree.map(lambda leaf: leaf[0], sights())
    variables = made.init(KEY, obs)
    bits = copy(variables)
    assert same(variables, made.init(KEY, obs)) and not same(variables, made.init(OTHER, obs))
    first = copy(made.apply(variables, obs, made.initial_carry(obs)))
    seen = made.observe_statistics(variables, sights(), jnp.ones(6))
    assert same(first, made.apply(variables, obs, made.initial_carry(obs)))
    assert same(variables, bits) and not same(seen, variables)


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_student_vmaps_and_keeps_its_dtype(name, dtype):
    made, obs = student(name, dtype), sights()
    variables = made.init(KEY, jax.tree.map(lambda leaf: leaf[0], obs))
    many = jax.jit(jax.vmap(made.apply, (None, 0, None)))(variables, obs, ())[0]
    assert many.mean.dtype == many.cov.dtype == dtype
    sequence = made.apply_sequence(variables, obs, jnp.zeros(6, bool), ())
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    for i in range(6):
        one, _ = made.apply(variables, jax.tree.map(lambda leaf, i=i: leaf[i], obs), ())
        for field in ("mean", "cov"):
            np.testing.assert_allclose(getattr(many, field)[i], getattr(one, field), rtol=tolerance)
            np.testing.assert_allclose(getattr(sequence, field)[i], getattr(one, field), rtol=tolerance)


# ------------------------------------------------------------------------------------------ teachers


@cache
def acting(name):
    """(init, act over a batch, act) of a teacher of the swing, jitted."""
    made = TEACHERS[name](tasks.swing())
    batch = jax.jit(lambda xs: jax.vmap(lambda x: made.act(KEY, made.init(KEY, x), x, jnp.int32(0)))(xs))
    return jax.jit(made.init), batch, jax.jit(made.act), made


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_is_pure_and_vmaps(name):
    init, batch, act, _ = acting(name)
    xs = jnp.asarray(np.random.default_rng(4).normal(size=(3, 2)))
    many, _ = batch(xs)
    for i, x in enumerate(xs):
        state = init(KEY, x)
        bits = copy(state)
        action, later = act(KEY, state, x, jnp.int32(0))
        assert same(state, bits) and same((action, later), act(KEY, state, x, jnp.int32(0)))
        assert jax.tree.structure(state) == jax.tree.structure(later)
        for one, each in zip(jax.tree.leaves(action), jax.tree.leaves(many), strict=True):
            np.testing.assert_allclose(each[i], one, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_teacher_labels_in_the_dtype_of_the_state(name, dtype):
    init, _, act, _ = acting(name)
    x = jnp.asarray([0.3, -0.2], dtype)
    state = init(KEY, x)
    action, later = jax.eval_shape(act, KEY, state, x, jnp.int32(0))
    for leaf in jax.tree.leaves((action._replace(status=()), later)):
        assert leaf.dtype == dtype or jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == bool
    assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [leaf.dtype for leaf in jax.tree.leaves(later)]
    assert action.status.dtype == jnp.int32 and action.status.shape == ()
