"""Episodes that a teacher shows: as rows, as transitions, and with a hand that shakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_tasks as tasks

from envs.point_maze import REACH, WAY, point_maze, teacher
from gps.demonstrations import demonstrations
from gps.evaluate import evaluate
from gps.placement import cpu_jit
from gps.plant import in_every_context

KEY = jax.random.key(3)


def test_transitions_follow_one_another_and_end_where_it_failed():
    shown = demonstrations(tasks.road(), tasks.road_teacher, 3)(KEY)
    rows, labels = shown.transitions, shown.labels
    assert int(shown.steps) == 3 * 60 and rows.reward.shape == labels.t.shape == (180,)
    assert not np.any(rows.terminated), "this teacher stays on the road"
    following = {
        bytes(np.asarray(a)): np.asarray(b) for a, b in zip(labels.obs[:-1], labels.obs[1:], strict=True)
    }
    for obs, then in zip(rows.obs, rows.next_obs, strict=True):
        np.testing.assert_array_equal(following[bytes(np.asarray(obs))], then)
    np.testing.assert_allclose(np.sum(shown.returns), np.sum(-labels.cost), rtol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_hand_shakes_and_the_label_does_not(noise):
    """Half-range 3: a standard deviation of 3 · noise around what the teacher wanted."""
    labels = demonstrations(tasks.road(), tasks.road_teacher, 40, noise)(KEY).labels
    inside = (np.abs(np.asarray(labels.mean)) < 2.0)[:, 0] & (np.asarray(labels.weight) > 0)
    apart = np.asarray(labels.action - labels.mean)[inside]
    assert len(apart) > 1000 and np.std(apart) == pytest.approx(3 * noise, rel=0.06, abs=1e-6)


def test_noise_needs_limits():
    env = tasks.road()
    free = env._replace(limits=env.limits._replace(high=np.full(1, np.inf)))
    with pytest.raises(ValueError, match="measured by the limits of the controls, which are not finite"):
        demonstrations(free, tasks.road_teacher, 2, 0.1)


def test_the_teacher_of_the_maze_gets_to_the_goal_from_anywhere_in_the_corridor():
    """It goes by where the ball is: nothing that it remembers."""
    env, way = point_maze(), jnp.asarray(WAY)

    def begin(key):
        leg_key, along_key, side_key = jax.random.split(key, 3)
        leg = jax.random.randint(leg_key, (), 0, 3)
        place = way[leg] + jax.random.uniform(along_key) * (way[leg + 1] - way[leg])
        return jnp.concatenate(
            [place + jax.random.uniform(side_key, (2,), minval=-0.3, maxval=0.3), jnp.zeros(2)]
        )

    anywhere = in_every_context(env, lambda env: env._replace(init=begin))
    run = cpu_jit(evaluate(anywhere, make_teacher=teacher))
    scores, steps = run(jax.random.split(KEY, 60))
    starts, ends = np.asarray(steps.x[0, :, :2]), np.asarray(steps.x[-1, :, :2])
    assert np.ptp(starts, axis=0).min() > 2 and np.all(np.linalg.norm(ends - WAY[-1], axis=1) < REACH)
    assert np.all(np.asarray(scores.reward) >= 28)
