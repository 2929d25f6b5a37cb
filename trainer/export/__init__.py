"""Models for others to run. Each export is run by its own runtime on real examples before it is called done."""
