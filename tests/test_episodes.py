"""Episodes beside a loop over worlds and steps in NumPy; random draws are read off where they show."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks
from small_tasks import DISOWNED, HORIZON, WALL, A, B, G, plain, same

from gps import dataset as ds
from gps.episodes import MIXTURE, episodes, student_drives, teacher_drives
from gps.labels import as_dataset, example_row
from gps.types import Status

ENV, STUDENT = tasks.corridor(), tasks.recurrent()
VARIABLES = (jnp.asarray(tasks.WEIGHTS), ())
T, W, SPARES = 24, 8, 3
KEYS = jax.random.split(jax.random.key(11), W)
contexts = jax.jit(jax.vmap(jax.vmap(ENV.sample_context)))


@cache
def runner(replace):
    both = {"make_teacher": tasks.corridor_teacher, "student": STUDENT}
    run = episodes(ENV, tasks.noisy_mixture, T, **both, replace=replace, spares=SPARES)
    return jax.jit(lambda keys, share: run(keys, VARIABLES, share))


@cache
def rows(replace):
    """Steps as NumPy."""
    return jax.tree.map(plain, runner(replace)(KEYS, 0.4))


def replay(steps, share, replace):
    """Every world by hand: yields ((i, w), what the row must hold, whether the episode goes on)."""
    for w in range(steps.t.shape[1]):
        start = None
        for i in range(steps.t.shape[0]):
            seen, c = steps.obs, steps.metrics["c"][i, w]
            if start is None:
                start = i
                x, u, t, total, carry, worst = steps.x[i, w], np.zeros(2), 0, 0.0, np.zeros(2), -np.inf
                y = np.array([2 * x[0] + c, -x[1], c])
            noises = seen["noise"][i, w], steps.log_prob[i, w]
            obs = np.concatenate([x[:1], y, u, [total], noises[:1]])
            student = tasks.WEIGHTS @ obs + carry
            teacher = G @ x + 0.1 * c - 0.1 * steps.x[start, w] + 0.05 * t
            wanted = share * teacher + (1 - share) * student + 0.2 * noises[1] + 0.05 * c
            u_next = np.clip(wanted, tasks.LOW, tasks.HIGH)
            x_next = A @ x + B @ u_next + [0, 0.05 * c] + 0.05 * np.sin(x)
            cost = x @ x + 0.1 * u_next @ u_next + 0.3 * (2 * x[0] + c) + (u_next[0] - x[1]) * c + 0.01 * t
            worst = max(worst, cost)
            failed = abs(x_next[0]) > WALL
            over = failed or t + 1 == HORIZON
            yield (i, w), {
                "obs": {"x": x[:1], "y": y, "u": u, "sum": total},
                "reward": -worst * (HORIZON - t) if failed else -cost,
                "x": x, "t": t, "u": u_next, "drawn": wanted, "behaviour": MIXTURE, "cost": cost,
                "first": t == 0,
                "failed": failed, "truncated": not failed and (over or i == len(steps.t) - 1),
                "status": 0, "alive": True, "student_mean": student, "mean": teacher,
                "label": 3 if x[1] > DISOWNED else 0, "speed": abs(x[1]), "push": c * u_next[0],
                "same_as": start,
            }  # fmt: skip
            if over and not replace:
                break
            start = None if over else start
            carry, total = 0.5 * carry + x[0], total + x[0]
            x, u, t, y = x_next, u_next, t + 1, np.array([2 * x_next[0] + c, u_next[0] - x_next[1], c])


def compare(steps, share, replace):
    """Against `replay`; returns the rows that were reached."""
    c = np.asarray(contexts(jax.random.wrap_key_data(jnp.asarray(steps.key))))
    steps = steps._replace(metrics=steps.metrics | {"c": c})
    reached = np.zeros(steps.t.shape, bool)
    for (i, w), row in replay(steps, share, replace):
        reached[i, w] = True
        start = row.pop("same_as")
        found = steps._asdict() | steps.metrics
        found |= {"mean": steps.action.dist.mean, "label": steps.action.status}
        for name, value in (row.pop("obs") | {"mark": steps.obs["mark"][start, w]}).items():
            np.testing.assert_allclose(steps.obs[name][i, w], value, rtol=1e-10, atol=1e-12, err_msg=name)
        for name, value in row.items():
            np.testing.assert_allclose(found[name][i, w], value, rtol=1e-9, atol=1e-11, err_msg=name)
        np.testing.assert_array_equal(steps.key[i, w], steps.key[start, w])
        np.testing.assert_array_equal(steps.action.Quu[i, w], steps.action.Quu[start, w])
    return reached


def starts(steps, w):
    """What the episodes of a world begin with."""
    return [(steps.key[i, w], steps.x[i, w]) for i in np.flatnonzero(steps.first[:, w])]


def test_every_row_is_that_of_a_loop_in_numpy():
    steps = rows(True)
    assert np.all(compare(steps, 0.4, True)) and np.all(steps.alive)
    ends = steps.failed | (steps.t == HORIZON - 1)
    assert np.sum(steps.failed) > 3 and np.sum(ends & ~steps.failed) > 3, "both kinds of end occur"
    assert np.any(steps.action.status == 3) and np.any(steps.u == tasks.HIGH) and np.any(steps.u == tasks.LOW)


def test_without_replacement_a_world_ends_where_the_loop_does():
    steps = rows(False)
    reached = compare(steps, 0.4, False)
    np.testing.assert_array_equal(steps.alive, reached)
    lengths = reached.sum(axis=0)
    assert len(set(lengths)) > 2 and max(lengths) == HORIZON
    for w, end in enumerate(lengths):
        frozen = steps.x[end:HORIZON, w]
        assert np.all(frozen == frozen[:1]) and not np.any(steps.x[HORIZON:, w]), "held, then blank"
    assert min(lengths) < HORIZON - 2


def test_all_draws_are_different():
    """A fresh context, start, memory and teacher in every episode; fresh noise for everyone at every step."""
    steps = rows(True)
    new = steps.first & (np.cumsum(steps.first, axis=0) <= 1 + SPARES)
    for values in (steps.key[..., 1], steps.x[..., 0], steps.obs["mark"], steps.action.Quu[..., 0, 0]):
        assert len(np.unique(values[new])) == np.sum(new) > 3 * W
    noise = np.stack([steps.obs["noise"], steps.action.q[..., 0], steps.log_prob])
    assert len(np.unique(noise)) == noise.size


def test_a_world_does_not_depend_on_its_neighbours():
    steps = rows(True)
    shuffled = jnp.concatenate([KEYS[3:], jax.random.split(jax.random.key(5), 2), KEYS[:1]])
    others = jax.tree.map(plain, runner(True)(shuffled, 0.4))
    for here, there in ((3, 0), (4, 1), (0, W - 1)):
        pick = [jax.tree.map(lambda leaf, w=w: leaf[:, w], s) for s, w in ((steps, here), (others, there))]
        assert same(*pick)


def test_two_drivers_meet_the_same_worlds():
    one, two = rows(True), jax.tree.map(plain, runner(True)(KEYS, 0.9))
    assert not np.allclose(one.u, two.u)
    for w in range(W):
        for (key, x), (other_key, other_x) in zip(starts(one, w), starts(two, w), strict=False):
            assert np.array_equal(key, other_key) and np.array_equal(x, other_x)


def test_spares_are_used_in_turn():
    most = 0
    for w in range(W):
        found = [tuple(key) for key, _ in starts(rows(True), w)]
        assert found[1:] == [found[1 + i % SPARES] for i in range(len(found) - 1)]
        most = max(most, len(found))
    assert most > 2 + SPARES, "the first spare has come round again"


def test_same_key_same_bits_and_the_key_matters():
    again = jax.tree.map(plain, runner(True)(KEYS, 0.4))
    assert same(rows(True), again)
    other = jax.tree.map(plain, runner(True)(jax.random.split(jax.random.key(12), W), 0.4))
    assert not np.isin(other.x[other.first], rows(True).x).any()


def test_dtypes():
    steps = rows(True)
    for leaf in (steps.x, steps.u, steps.cost, steps.log_prob, steps.student_mean, steps.obs["y"]):
        assert leaf.dtype == np.float64
    for leaf in (steps.t, steps.behaviour, steps.status):
        assert leaf.dtype == np.int32


def test_nothing_runs_once_every_episode_has_ended():
    ran = []
    env = tasks.corridor(on_step=lambda x: jax.debug.callback(ran.append, x))
    run = jax.jit(episodes(env, student_drives, T, student=STUDENT, replace=False))
    alive = np.asarray(run(KEYS, VARIABLES, ()).alive)
    jax.effects_barrier()
    last = int(np.max(np.sum(alive, axis=0)))
    assert last < T and len(ran) == W * last


def test_a_control_that_is_no_number_is_a_failure_and_stays_alone():
    def drive(key, broken, action, dist, env):
        lost = (jnp.abs(dist.mean[0]) > 0.3) & broken
        return jnp.where(lost, jnp.nan, dist.mean), jnp.zeros(()), jnp.int32(1)

    run = jax.jit(episodes(ENV, drive, T, student=STUDENT))
    steps = jax.tree.map(plain, run(KEYS, VARIABLES, jnp.asarray(True)))
    lost = np.abs(steps.student_mean[..., 0]) > 0.3
    assert np.any(lost) and not np.all(lost)
    np.testing.assert_array_equal(steps.status, np.where(lost, Status.DIVERGED, 0))
    assert np.all(steps.failed[lost]) and np.all(steps.first[1:][lost[:-1]])
    for leaf in (steps.x, steps.u, steps.cost, steps.student_mean):
        assert np.all(np.isfinite(leaf))


def test_rows_of_a_dataset_are_the_steps_world_by_world():
    steps = runner(True)(KEYS, 0.4)
    given = np.random.default_rng(0).uniform(1, 2, (T, W))
    found = jax.tree.map(plain, jax.jit(as_dataset)(steps, jnp.asarray(given)))
    steps = rows(True)
    names = {name: getattr(steps, name) for name in ("x", "t", "key", "log_prob", "behaviour", "cost")}
    names |= {"first": steps.first, "terminated": steps.failed, "truncated": steps.truncated}
    names |= {"action": steps.u, "mean": steps.action.dist.mean, "precision": steps.action.Quu}
    names["weight"] = np.where(steps.action.status == 0, given, 0)
    for w, i in np.ndindex(W, T):
        for name, leaf in names.items():
            np.testing.assert_array_equal(getattr(found, name)[w * T + i], leaf[i, w], err_msg=name)
        for name, leaf in steps.obs.items():
            np.testing.assert_array_equal(found.obs[name][w * T + i], leaf[i, w])
    assert 0 < np.sum(found.weight == 0) < W * T
    ended = np.asarray(jax.jit(as_dataset)(runner(False)(KEYS, 0.4)).weight).reshape(W, T).T
    np.testing.assert_array_equal(ended, rows(False).alive & (rows(False).action.status == 0))


def test_an_example_row_has_the_shapes_of_the_rows():
    row = jax.jit(lambda key: example_row(ENV, key))(jax.random.key(0))
    steps = jax.eval_shape(lambda: as_dataset(runner(True)(KEYS, 0.4)))
    stored = jax.eval_shape(lambda row, steps: ds.add(ds.empty(9, row), steps), row, steps)
    assert stored.x.dtype == jnp.float64
    for leaf in jax.tree.leaves(stored._replace(x=())):
        assert leaf.dtype != jnp.float64


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="needs a teacher or a student"):
        episodes(ENV, teacher_drives, 3)
    with pytest.raises(ValueError, match=r"at least 1, got 3 and 0"):
        episodes(ENV, student_drives, 3, student=STUDENT, spares=0)
    with pytest.raises(ValueError, match=r"at least 1, got 0 and 3"):
        episodes(ENV, student_drives, 0, student=STUDENT)
    unlabelled = jax.eval_shape(
        lambda: episodes(ENV, student_drives, 3, student=STUDENT)(KEYS, VARIABLES, ())
    )
    with pytest.raises(ValueError, match="pass make_teacher"):
        as_dataset(unlabelled)
