"""TensorFlow: the model, the step, the loop round it, evaluation and export. Knows nothing of Ray or Hydra."""
