"""What pipelines share: net, target, loss, scores and pictures of a kind of task."""
