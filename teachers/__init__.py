"""Teachers: they see the full state, and label it."""
