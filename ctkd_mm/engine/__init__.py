"""Training: hooks, loops, optimizers, launchers."""
