"""Guided policy search: teachers that see the full MuJoCo state, students that do not.

Read `gps.types` first; it holds every type that crosses a package boundary.
"""

__version__ = "0.1.0"
