"""The training loop and its parts: checkpoints, logs, initialisation, stop signals, checks."""
