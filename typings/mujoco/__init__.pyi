# MuJoCo's compiled bindings come without types.
from typing import Any

def __getattr__(name: str) -> Any: ...
