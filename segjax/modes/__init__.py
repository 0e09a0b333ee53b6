"""What `--mode` names: each module runs one mode."""
