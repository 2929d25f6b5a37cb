"""Measuring a model: every example of a split once, over any number of replicas."""
