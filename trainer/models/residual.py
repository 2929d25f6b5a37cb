"""Residual branches that are left out at random while training: stochastic depth (Huang et al. 2016)."""

import keras


def add_residual(x: keras.KerasTensor, branch: keras.KerasTensor, drop: float, name: str) -> keras.KerasTensor:
    """x + branch; in training, for each image by itself, x alone with probability `drop`, else x + branch / (1 - drop).

    What is drawn is a function of a seed and a counter, which is a variable of the model and so part of a checkpoint.
    """
    if drop:
        same_for_an_image = (None, *(1 for _ in branch.shape[1:]))
        branch = keras.layers.Dropout(drop, noise_shape=same_for_an_image, name=f"{name}_drop")(branch)
    return keras.layers.Add(name=name)([x, branch])
