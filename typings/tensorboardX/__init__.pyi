"""Types for pyright: the part of tensorboardX that writes the events of a stage."""
