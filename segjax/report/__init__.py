"""The report of a run folder: a page, its charts, and how scores are named and shown."""
