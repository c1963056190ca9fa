"""Tasks on the MuJoCo C engine: one file per task, `from_mjcf` for your own.

The engine as a JAX primitive is `envs.mujoco`, what a student may see `envs.observations`; the shapes
that all of them share are in `gps.types`.
"""

from envs.mjcf import Task, from_engine, from_mjcf, sensor_slices

__all__ = ["Task", "from_engine", "from_mjcf", "sensor_slices"]
