"""Tasks on the MuJoCo C engine: one file per task, `envs.mjcf.from_mjcf` for your own.

The engine as a JAX primitive is `envs.mujoco`, what a student may see `envs.observations`; the shapes
that all of them share are in `gps.types`.
"""
