"""The training loop, and what makes it restart: checkpoints, logs, starts, stops and checks."""
