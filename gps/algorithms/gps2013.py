"""Guided policy search as it began: importance sampling with guiding samples (Levine & Koltun, ICML 2013)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from gps.algorithms.importance_objective import Paths, as_paths
from gps.algorithms.importance_search import Begun, Guides, SearchPlan, importance_search
from gps.algorithms.likelihoods import distribution
from gps.algorithms.mdgps import check_epsilon
from gps.algorithms.phases import Linearisation, batched, improve_near, student_controller, trials
from gps.conditions import Conditions, training_conditions
from gps.importance import controller_log_probs
from gps.linalg import cholesky
from gps.placement import cpu_jit
from gps.rollout import observations, student_rollout
from gps.types import (
    Algorithm,
    Env,
    Gaussian,
    KLTerm,
    LinearGaussian,
    LocalTeacher,
    Status,
    Student,
    Trajectory,
)

__all__ = ["gps2013"]


def gps2013(
    env: Env,
    make_teacher: Callable[[Env], LocalTeacher],
    student: Student,
    *,
    adaptive: bool = True,
    price: float = 1e-2,
    guide_iterations: int = 10,
    epsilon: float = 1.0,
    conditions: int | None = None,
    samples: int = 5,
    past: int = 8,
    pretrain_updates: int = 2000,
    updates: int = 200,
    learning_rate: float = 1e-3,
    keep: float = 0.5,
    regulariser: float = 1e-2,
    test_conditions: int = 8,
) -> Algorithm:
    """max_θ Σ_t [Σ_i w_t,i r_t,i / Σ_i w_t,i + w_r log Z_t] over guiding samples and all remembered rollouts.

    The reward is −cost. Guiding samples are drawn from linear-Gaussian controllers, the maximum entropy
    solutions of their own iterations: with `teachers.local_lqr(dynamics="known", entropy=α)` these become
    iLQR's, of covariance α Quu⁻¹. With `adaptive` a second controller per condition follows the student: it
    minimises E[c − ν log π_θ] − ν H, what is cheap and what the student is likely to do (section 5 of the
    paper).

    Beyond the paper: weights are normalised in each condition; a step ends where too few samples tell about
    it (`keep`); rewards are in standard deviations of the return; the samples of the last `past` policies are
    learned from, not those that seem likely to matter.

    Args:
        env: the task.
        make_teacher: Env → LocalTeacher, called on the env bound to a condition's context.
        student: the policy, with a Gaussian.
        adaptive: whether there are guides that follow the student.
        price: ν, what a nat of these is worth at a step, in standard deviations of the first guide's return.
        guide_iterations: of the local teachers, before the first guiding samples.
        epsilon: ε, how far a guide may move in one of its iterations, nats per control step.
        conditions: how many to draw at random; the task's own set by default.
        samples: rollouts per condition and driver: of guides, and of the student in each iteration.
        past: policies whose rollouts are remembered.
        pretrain_updates: gradient updates of the first policy, by the likelihood of the guiding samples.
        updates: gradient updates per iteration at most, each on all rollouts.
        learning_rate: of Adam at first; a quarter each time that it went where `keep` forbids.
        keep: share of the rollouts that tell about the best policy (`gps.importance.effective_samples`) which
            have to tell about its successor.
        regulariser: w_r at first, in standard deviations of the return per nat and step; a tenth after an
            iteration that was better, tenfold after one that was not.
        test_conditions: others, in which the student is tried after each iteration; training never sees them.

    Raises:
        ValueError: settings that cannot work, or a task without conditions of its own and none asked for.
    """
    check_epsilon(epsilon)
    if guide_iterations < 1 or samples < 1 or test_conditions < 0 or not price >= 0:
        raise ValueError(
            "expected guide_iterations and samples >= 1, test_conditions and price >= 0, got "
            f"{guide_iterations}, {samples}, {test_conditions} and {price}"
        )
    if adaptive and samples < 2:
        raise ValueError("guides that follow the student need samples >= 2: a nat's price is in their spread")
    if distribution(env, student) is not Gaussian:
        raise ValueError(
            f"gps2013 needs a student with a Gaussian, this one has a {distribution(env, student).__name__}"
        )
    if conditions is None and env.conditions is None:
        training_conditions(env, jax.random.key(0), None)
    bound = jnp.asarray(epsilon * env.horizon)
    linearisation: Linearisation = "exact" if student.unroll is None else "regression"
    drawn = drawn_by(env, samples)
    tried = cpu_jit(trials(env, make_teacher, student, test_conditions))

    def counted(rollouts: int) -> tuple[Array, Array]:
        return jnp.int32(rollouts), jnp.int32(rollouts * env.horizon)

    def begin(key: Key[Array, ""]) -> Begun:
        condition_key, guide_key = jax.random.split(key)
        starts = training_conditions(env, condition_key, conditions)
        M = starts.x0.shape[0]

        def one(here: Env, teacher: LocalTeacher, key: Array, x0: Array) -> tuple[Guide, Paths]:
            init_key, *keys = jax.random.split(key, 2 + guide_iterations)

            def iterate(local: PyTree, key: Array) -> tuple[PyTree, None]:
                draw_key, learn_key = jax.random.split(key)
                now = teacher.controller(local)
                local, _ = teacher.learn(learn_key, local, drawn(here, draw_key, now, x0)[0])
                return teacher.improve(local, (KLTerm(now, bound=bound),))[0], None

            local, _ = jax.lax.scan(iterate, teacher.init(init_key, x0), jnp.stack(keys[:-1]))
            draw_key, learn_key = jax.random.split(keys[-1])
            now = teacher.controller(local)
            rollouts, paths = drawn(here, draw_key, now, x0)
            local, _ = teacher.learn(learn_key, local, rollouts)
            unit = jnp.std(jnp.sum(paths.reward, axis=1)).astype(x0.dtype)
            guides = jax.tree.map(lambda leaf: jnp.stack([leaf] * (2 if adaptive else 1)), now)
            return Guide(local, guides, rollouts, unit), paths

        found, paths = batched(env, make_teacher, one)(
            starts.context, jax.random.split(guide_key, M), starts.x0
        )
        paths = jax.tree.map(lambda leaf: leaf[:, None], paths)
        if adaptive:  # its first samples are drawn in the first iteration
            paths = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)], axis=1), paths)
        return Begun((starts, found), paths, *counted(M * samples * (guide_iterations + 1)))

    def renew(key: Array, memory: tuple[Conditions, "Guide"], variables: PyTree, paths: Paths) -> Begun:
        starts, found = memory
        M = starts.x0.shape[0]

        def one(here: Env, teacher: LocalTeacher, key: Array, x0: Array, guide: Guide) -> tuple[Guide, Paths]:
            draw_key, learn_key = jax.random.split(key)
            pi = student_controller(here, student, linearisation)(variables, guide.rollouts)
            weight = jnp.full(env.horizon, price * guide.unit)
            near = KLTerm(teacher.controller(guide.local), bound=bound)
            local, _ = improve_near(teacher, guide.local, [near, KLTerm(pi, weight=weight)], bound)
            now = teacher.controller(local)
            rollouts, paths = drawn(here, draw_key, now, x0)
            local, _ = teacher.learn(learn_key, local, rollouts)
            guides = jax.tree.map(lambda old, new: old.at[1].set(new), guide.controllers, now)
            return guide._replace(local=local, controllers=guides, rollouts=rollouts), paths

        found, fresh = batched(env, make_teacher, one)(
            starts.context, jax.random.split(key, M), starts.x0, found
        )
        paths = jax.tree.map(lambda old, new: old.at[:, 1].set(new), paths, fresh)
        return Begun((starts, found), paths, *counted(M * samples))

    def roll(key: Array, memory: tuple[Conditions, "Guide"], variables: PyTree) -> Paths:
        starts, _ = memory

        def one(context: PyTree, x0: Array, key: Array) -> Paths:
            here = env.bind(context)
            drive = student_rollout(here, student)
            run = lambda key: path(*drive(key, variables, x0, 1.0))  # noqa: E731
            return jax.vmap(run)(jax.random.split(key, samples))

        return jax.vmap(one)(*starts, jax.random.split(key, starts.x0.shape[0]))

    def told(memory: tuple[Conditions, "Guide"], paths: Paths) -> Float[Array, "M G N T"]:
        def one(guides: LinearGaussian, xs: Array, us: Array) -> Array:
            by = jax.vmap(controller_log_probs, (None, 0, 0, None))
            return jax.vmap(by, (0, None, None, None))(guides, xs, us, env.minus)

        return jax.vmap(one)(memory[1].controllers, paths.facts, paths.action)

    guides = Guides(
        begin,
        roll,
        told,
        lambda memory, variables: tried(memory[0], memory[1].local, variables),
        renew if adaptive else None,
    )
    plan = SearchPlan(past, pretrain_updates, updates, learning_rate, keep, regulariser)
    return importance_search(env, student, guides, plan)


# ------------------------------------------------------------------------------------- internals


class Guide(NamedTuple):
    """Of one condition."""

    local: PyTree
    """The local teacher's state, when it has learned from `rollouts`."""
    controllers: LinearGaussian
    """[G] the first one, and the one that follows the student."""
    rollouts: Trajectory
    """[S] the latest of guides."""
    unit: Float[Array, ""]
    """Standard deviation of the first guide's return."""


def path(rollout: Trajectory, obs: PyTree, drawn: Float[Array, "T nu"]) -> Paths:
    """The final cost is paid with the last step; if it diverged, every step costs what the dearest did."""
    costs = rollout.costs[:-1].at[-1].add(rollout.costs[-1])
    reward = -jnp.where(rollout.status == Status.OK, costs, jnp.max(costs))
    return as_paths(obs, drawn, reward, jnp.ones(reward.shape, bool), rollout.xs[:-1])


def drawn_by(env: Env, samples: int) -> Callable[..., tuple[Trajectory, Paths]]:
    """(bound env, key, controller, x0) → rollouts [S] of a linear-Gaussian controller."""

    def run(here: Env, key: Array, controller: LinearGaussian, x0: Array) -> tuple[Trajectory, Paths]:
        half = jax.vmap(cholesky)(controller.cov)

        def one(key: Array) -> tuple[Trajectory, Paths]:
            noise_key, look_key = jax.random.split(key)
            white = jax.random.normal(noise_key, controller.us.shape, controller.us.dtype)
            noise = jnp.einsum("tij,tj->ti", half, white)
            rollout = here.rollout(x0, controller, noise)
            away = jax.vmap(here.minus)(rollout.xs[:-1], controller.xs)
            drawn = controller.us + jnp.einsum("tij,tj->ti", controller.K, away) + noise
            return rollout, path(rollout, observations(here, look_key, rollout.xs, rollout.us), drawn)

        return jax.vmap(one)(jax.random.split(key, samples))

    return run
