"""The plain script: Keras in one process, 20 steps. Prints when the first step was done."""

import json
import time

import keras
import numpy as np

from benchmarks.peers.networks import cnn

STEPS = 20


class FirstStep(keras.callbacks.Callback):
    """Notes when the first batch was trained."""

    def on_train_batch_end(self, batch, logs=None):
        """Print the time once."""
        if batch == 0:
            print(json.dumps({"first_step": time.time()}), flush=True)


rng = np.random.default_rng(0)
images = rng.uniform(0, 255, (64 * STEPS, 32, 32, 3)).astype("float32")
labels = rng.integers(0, 10, 64 * STEPS)
model = cnn()
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(images, labels, batch_size=64, verbose=0, callbacks=[FirstStep()])
