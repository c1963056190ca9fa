"""The loop that importance-sampled policy search methods share; they differ in the guides they learn from.

    guides ──trajectories──┐                                        ┌─better──▶ its successor, freer
                           ├──▶ improve by all of them ──▶ roll out ┤
    past policies ─────────┘                                        └─worse───▶ as it was, held tighter

Every trajectory counts in proportion to how likely the policy would have made it, however old it is and
whoever drove (`gps.importance`). Rolling out runs on the CPU, where the engine is; the rest on the student's
device.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from gps.algorithms.importance_objective import Paths, evidence, flat, objective, windows_of
from gps.algorithms.likelihoods import log_probs
from gps.placement import cpu_jit, student_jit
from gps.types import Algorithm, Dataset, Env, Limits, Student
from students.fit import adam, fit
from students.losses import nll
from students.policies import set_covariance, takes_covariance

__all__ = [
    "Begun",
    "Guides",
    "SearchPlan",
    "SearchState",
    "imitate",
    "importance_search",
]


class Begun(NamedTuple):
    """What guides come to."""

    memory: PyTree
    paths: Paths
    """[M, G, S] of all guides."""
    rollouts: Int[Array, ""]
    """Episodes that it took."""
    steps: Int[Array, ""]
    """Control steps of these."""
    updates: Int[Array, ""] | int = 0
    """Gradient updates of what stands for a guide."""


class Guides(NamedTuple):
    """G drivers that know where the reward is; a trajectory is a row of `Paths`."""

    begin: Callable[[Key[Array, ""]], Begun]
    roll: Callable[..., Paths]
    """(key, memory, student's variables) → S trajectories of the student in every condition [M, S]."""
    log_probs: Callable[[PyTree, Paths], Float[Array, "M G N T"]]
    """(memory, paths [M, N]) → log-densities of the actions, for every guide."""
    try_out: Callable[[PyTree, PyTree], dict[str, Array]]
    """(memory, student's variables) → how the student does without noise; nobody learns from it."""
    renew: Callable[..., Begun] | None = None
    """(key, memory, student's variables, guides' paths) → guides that have adapted to the student."""


class SearchPlan(NamedTuple):
    """Settings of the loop."""

    past: int = 8
    """Policies whose trajectories are remembered; the best one's always are."""
    pretrain_updates: int = 2000
    """Gradient updates of the first policy, by the likelihood of what the guides drew."""
    updates: int = 200
    """Gradient updates per iteration at most, each on all trajectories."""
    learning_rate: float = 1e-3
    """Of Adam at first; a quarter each time that it went where `keep` forbids."""
    keep: float = 0.5
    """Share of the trajectories that counted for the best policy which have to count for its successor."""
    regulariser: float = 1e-2
    """w_r at first: what a nat of log Z is worth at a step, in standard deviations of the return."""


class SearchState(NamedTuple):
    """All of a run."""

    policies: PyTree
    """Variables [P] of the policies that are remembered."""
    born: Int[Array, " P"]
    """In which iteration; negative where there is none yet."""
    best: Int[Array, ""]
    """Which of them is the best."""
    paths: Paths
    """Of the guides, then of the policies."""
    memory: PyTree
    """The guides'."""
    regulariser: Float[Array, ""]
    iteration: Int[Array, ""]
    totals: dict[str, Int[Array, ""]]


def imitate(student: Student, limits: Limits, plan: SearchPlan) -> Callable[[Key[Array, ""], Paths], PyTree]:
    """(key, guides' paths) → the student under which their actions are most likely (algorithm 1, line 3).

    One with covariance="labels" gets the covariance of its errors, and keeps it.
    """
    length = 1 if student.unroll is None else student.unroll.length
    fitter = fit(
        student,
        nll("executed"),
        adam(updates=plan.pretrain_updates),
        batch_size=length * max(1, 256 // length),
        updates=plan.pretrain_updates,
    )

    @student_jit
    def run(key: Array, paths: Paths) -> PyTree:
        student_key, fit_key = jax.random.split(key)
        rows = _rows(paths)
        example = jax.tree.map(lambda leaf: leaf[0], rows.obs)
        begun = fitter.init(fit_key, student.init(student_key, example))
        variables = fitter.run(fit_key, begun, rows)[0].variables
        if not takes_covariance(variables):
            return variables
        joined = flat(paths)
        dists = jax.vmap(lambda part: log_probs(student, variables, part, limits)[0])(
            windows_of(student, joined)
        )
        away = (joined.action - dists.mean).reshape(rows.action.shape)
        cov = jnp.einsum("n,ni,nj->ij", rows.weight, away, away) / jnp.sum(rows.weight)
        return set_covariance(variables, cov + 1e-6 * jnp.eye(cov.shape[0], dtype=cov.dtype))

    return run


def importance_search(env: Env, student: Student, guides: Guides, plan: SearchPlan) -> Algorithm:
    """Policy search of Levine & Koltun 2013, algorithm 1, whose Φ(θ) is `importance_objective.objective`.

    Raises:
        ValueError: settings that cannot work.
    """
    _check(plan)
    start, limits = imitate(student, env.limits, plan), env.limits
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(1.0),
    )
    begin, roll = cpu_jit(guides.begin), cpu_jit(guides.roll)
    guides_say = cpu_jit(lambda memory, paths: guides.log_probs(memory, flat(paths)))
    renew = None if guides.renew is None else cpu_jit(guides.renew)

    def init(key: Key[Array, ""]) -> SearchState:
        begin_key, student_key, roll_key = jax.random.split(key, 3)
        begun = begin(begin_key)
        first = start(student_key, begun.paths)
        drawn = roll(roll_key, begun.memory, first)
        policies = jax.tree.map(lambda leaf: jnp.stack([leaf] * plan.past), first)
        blank = jax.tree.map(
            lambda leaf: jnp.zeros((leaf.shape[0], plan.past, *leaf.shape[1:]), leaf.dtype), drawn
        )
        paths = jax.tree.map(
            lambda old, new: jnp.concatenate([old, new], axis=1),
            begun.paths,
            _put(blank, 0, drawn),
        )
        totals = {
            "rollouts": begun.rollouts + drawn.sound.size,
            "simulator_steps": begun.steps + jnp.sum(drawn.alive, dtype=jnp.int32),
            "gradient_updates": jnp.int32(plan.pretrain_updates) + begun.updates,
        }
        zero = jnp.int32(0)
        weight = jnp.float32(plan.regulariser)
        born = -jnp.arange(plan.past, dtype=jnp.int32)
        return SearchState(policies, born, zero, paths, begun.memory, weight, zero, totals)

    @student_jit
    def improve(state: SearchState, by_guides: Array) -> tuple[PyTree, dict[str, Array]]:
        """The best policy's successor."""
        data = evidence(student, state.policies, state.paths, by_guides, limits)
        params, statistics = _at(state.policies, state.best)

        def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
            value, info = objective(student, (params, statistics), data, state.regulariser, limits)
            return -value, info

        least = plan.keep * loss(params)[1]["effective_samples"]

        def update(carry: Climb) -> Climb:
            slope, info = jax.grad(loss, has_aux=True)(carry.params)
            known = (info["effective_samples"] >= least) | (carry.updates == 0)
            known &= jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(slope)]))
            now = (carry.params, slope, carry.opt_state)
            params, slope, opt_state = jax.tree.map(lambda a, b: jnp.where(known, a, b), now, carry.known)
            rate = jnp.where(known, carry.rate, carry.rate / 4)
            change, after = optimizer.update(slope, opt_state, params)
            further = jax.tree.map(lambda leaf, step: leaf + rate * step, params, change)
            return Climb(further, after, (params, slope, opt_state), rate, carry.updates + 1)

        first = (params, jax.tree.map(jnp.zeros_like, params), optimizer.init(params))
        begin = Climb(params, first[2], first, jnp.float32(plan.learning_rate), jnp.int32(0))
        going = lambda c: (c.updates <= plan.updates) & (c.rate > 1e-3 * plan.learning_rate)  # noqa: E731
        end = jax.lax.while_loop(going, update, begin)
        found = end.known[0]
        return (found, statistics), loss(found)[1] | {"updates": end.updates - 1}

    @student_jit
    def compare(state: SearchState, by_guides: Array, new: int) -> tuple[Array, Array]:
        """Returns of the policy in slot `new` and of the best one, both by all trajectories."""
        data = evidence(student, state.policies, state.paths, by_guides, limits)
        value = lambda i: objective(student, _at(state.policies, i), data, 0.0, limits)[1]["estimated_return"]  # noqa: E731
        return value(new), value(state.best)

    def step(key: Key[Array, ""], state: SearchState) -> tuple[SearchState, dict[str, Any]]:
        guide_key, roll_key = jax.random.split(key)
        rollouts = steps = 0
        if renew is not None:
            of_guides = jax.tree.map(lambda leaf: leaf[:, : -plan.past], state.paths)
            again = renew(guide_key, state.memory, _at(state.policies, state.best), of_guides)
            state = state._replace(
                memory=again.memory,
                paths=jax.tree.map(
                    lambda old, new: jnp.concatenate([new, old[:, -plan.past :]], axis=1),
                    state.paths,
                    again.paths,
                ),
            )
            rollouts, steps = int(again.rollouts), int(again.steps)
        variables, info = improve(state, guides_say(state.memory, state.paths))
        best = int(state.best)  # on the host: it indexes arrays of two devices
        slot = min((i for i in range(plan.past) if i != best), key=lambda i: int(state.born[i]))
        drawn = roll(roll_key, state.memory, variables)
        guides_count = state.paths.sound.shape[1] - plan.past
        state = state._replace(
            policies=jax.tree.map(lambda old, new: old.at[slot].set(new), state.policies, variables),
            born=state.born.at[slot].set(state.iteration + 1),
            paths=_put(state.paths, guides_count + slot, drawn),
        )
        found, before = compare(state, guides_say(state.memory, state.paths), slot)
        better = bool(found > before)
        best = jnp.int32(slot if better else best)
        held = jnp.clip(state.regulariser * (1 / FACTOR if better else FACTOR), *RANGE)
        counts = {
            "rollouts": rollouts + drawn.sound.size,
            "simulator_steps": steps + int(jnp.sum(drawn.alive)),
            "gradient_updates": int(info.pop("updates")),
        }
        totals = {name: total + counts[name] for name, total in state.totals.items()}
        state = state._replace(best=best, regulariser=held, iteration=state.iteration + 1, totals=totals)
        info |= {
            "driver_return": _returns(drawn),
            "estimated_return": found,
            "best_return": jnp.maximum(found, before),
            "accepted": better,
            "lost_rollouts": jnp.sum(~drawn.sound),
        }
        info |= counts | {f"total_{name}": total for name, total in totals.items()}
        return state, info | guides.try_out(state.memory, _at(state.policies, best))

    return Algorithm(init, step, lambda state: _at(state.policies, state.best))


class Climb(NamedTuple):
    """An optimisation under way, by shorter steps each time that it went too far."""

    params: PyTree
    opt_state: PyTree
    known: tuple[PyTree, PyTree, PyTree]
    """(parameters, slope, optimiser's state) of the last point that enough of the trajectories tell about."""
    rate: Float[Array, ""]
    updates: Int[Array, ""]
    """Points looked at; the first is where it begins."""


# ------------------------------------------------------------------------------------- internals

FACTOR = 10.0
"""By which w_r changes from iteration to iteration."""
RANGE = (1e-6, 1e2)
"""In which w_r stays."""


def _rows(paths: Paths) -> Dataset:
    """Steps [M J S T, …]; of a row only what was seen and drawn counts."""
    rows = lambda leaf: leaf.reshape(-1, *leaf.shape[4:])  # noqa: E731
    shape, nu = paths.alive.shape, paths.action.shape[-1]
    t = rows(jnp.broadcast_to(jnp.arange(shape[-1], dtype=jnp.int32), shape))
    action, none = rows(paths.action), jnp.zeros(t.shape, jnp.float32)
    return Dataset(
        obs=jax.tree.map(rows, paths.obs),
        x=none[:, None],
        t=t,
        key=jnp.broadcast_to(jax.random.key(0), t.shape),
        action=action,
        log_prob=none,
        behaviour=jnp.zeros_like(t),
        mean=action,
        precision=jnp.zeros((*t.shape, nu, nu), jnp.float32),
        cost=none,
        first=t == 0,
        terminated=none > 0,
        truncated=none > 0,
        weight=rows(paths.alive & paths.sound[..., None]).astype(jnp.float32),
        next_slot=jnp.int32(0),
    )


def _put(paths: Paths, slot: int, new: Paths) -> Paths:
    return jax.tree.map(lambda old, leaf: old.at[:, slot].set(leaf.astype(old.dtype)), paths, new)


def _at(tree: PyTree, i: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _returns(paths: Paths) -> Array:
    """Mean over the trajectories there are."""
    returns = jnp.sum(paths.reward, axis=-1)
    return jnp.sum(jnp.where(paths.sound, returns, 0)) / jnp.sum(paths.sound)


def _check(plan: SearchPlan) -> None:
    for name, least in (("past", 2), ("pretrain_updates", 1), ("updates", 1)):
        if getattr(plan, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(plan, name)}")
    if not 0 < plan.learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {plan.learning_rate}")
    if not 0 <= plan.keep <= 1:
        raise ValueError(f"keep is a share in [0, 1], got {plan.keep}")
    if not RANGE[0] <= plan.regulariser <= RANGE[1]:
        raise ValueError(f"regulariser must be in [{RANGE[0]:g}, {RANGE[1]:g}], got {plan.regulariser}")
