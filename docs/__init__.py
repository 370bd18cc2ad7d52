"""Pages to read, and `docs.generate`, which writes those that come from the code."""
