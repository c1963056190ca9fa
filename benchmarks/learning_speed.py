"""How fast students learn: behaviour cloning and DAgger beside the library imitation, PPO beside the engine.

imitation needs an older gymnasium than ours: its lines are measured in an environment of its own, see
`benchmarks.beside_imitation`; elsewhere they are left as they were.
"""

from typing import Any

import jax

import students
from benchmarks.beside_imitation import bc, dagger_on_pendulum
from benchmarks.harness import Row, installed, main, time_ratio
from benchmarks.reinforcement import PPO
from envs.gymnasium import from_gymnasium
from gps.algorithms.ppo import ppo
from gps.collect import collector, student_samples
from gps.placement import cpu_jit

SEED = 0
ITERATIONS = 10
"""Of PPO in a measurement."""


def ppo_on_halfcheetah(fast: bool) -> list[Row]:
    """An iteration of PPO, its collection alone, and the engine's steps alone: 32 worlds of 64 steps each."""
    figure = "PPO, HalfCheetah: PPO ÷ engine alone, time"
    if not installed("gymnasium"):
        return [Row(figure, None, "1")]
    env = from_gymnasium("HalfCheetah-v5")
    student = students.mlp(env.nu, (64, 64), limits=env.limits)
    worlds, length = PPO["num_worlds"], PPO["num_steps"]
    algorithm = ppo(env, None, student, iterations=1000, test_worlds=0, **PPO)
    key, rounds = jax.random.key(SEED), 1 if fast else ITERATIONS
    state, _ = algorithm.step(key, algorithm.init(key))

    def learn() -> Any:
        now = state
        for i in range(rounds):
            now, _ = algorithm.step(jax.random.fold_in(key, i), now)
        return now.variables

    gather = cpu_jit(collector(env, student, student_samples, length).run)

    def collect() -> Any:
        running = state.running
        for i in range(rounds):
            running, *_ = gather(jax.random.fold_in(key, i), running, state.variables, ())
        return running

    @cpu_jit
    def advance(xs: jax.Array, us: jax.Array) -> jax.Array:
        def step(xs: jax.Array, us: jax.Array) -> tuple[jax.Array, None]:
            return jax.vmap(env.step)(xs, us)[0], None

        return jax.lax.scan(step, xs, us)[0]

    def engine() -> jax.Array:
        xs = state.running.world.x
        for _ in range(rounds):
            xs = advance(xs, us)
        return xs

    us = jax.random.uniform(key, (length, worlds, env.nu), minval=-1.0, maxval=1.0)
    repeats, count = 1 if fast else 9, worlds * length * rounds
    whole, part = time_ratio(learn, engine, repeats), time_ratio(collect, engine, repeats)
    return [
        Row("PPO, HalfCheetah", count / whole.a.median, "steps/s"),
        Row("PPO, HalfCheetah: collecting alone", count / part.a.median, "steps/s"),
        Row("PPO, HalfCheetah: engine alone", count / whole.b.median, "steps/s"),
        Row("PPO, HalfCheetah: PPO ÷ engine alone, time", whole.median, "1"),
        Row("PPO, HalfCheetah: collecting ÷ engine alone, time", part.median, "1"),
    ]


CASES = {
    "imitation, BC": bc,
    "imitation, DAgger": dagger_on_pendulum,
    "PPO": ppo_on_halfcheetah,
}

if __name__ == "__main__":
    main("learning_speed", CASES, seeds=(SEED,))
