"""Ray: where workers run, how they start, what is done when one dies. Never imports TensorFlow."""
