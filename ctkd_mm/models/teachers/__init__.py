"""The frozen teacher: its weights, its speed, its pixels."""
