"""Feature extractors that segmentation and depth nets share."""
