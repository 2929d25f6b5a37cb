"""The recipes of the README, each trained from its first phase to its last: `make recipes`.

What is loaded is a file that Keras wrote, of a model that Keras made: it is the reference for which layers stay as
they were, and for how long. The images are cut from scikit-learn's two photographs.
"""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from storage.run_dir import RunDir
from tests.curves import curve
from trainer.checkpoints import load

pytestmark = pytest.mark.timeout(1200)

SIDE = 96
EPOCH = 20  # steps
JOB = [
    *("data=folder", f"data.image_size={SIDE}", "trainer.global_batch_size=8", "trainer.epochs=6"),
    *(f"trainer.checkpoint_every_steps={EPOCH}", "trainer.keep_checkpoints=9", "trainer.log_every_steps=5"),
]


class Recipe(NamedTuple):
    """What Keras calls the model, and the first layer with weights of the part that the second phase tunes."""

    module: Any
    application: str
    upper_from: str


RECIPES = {
    "xception": Recipe(keras.applications.xception, "Xception", "block13_sepconv1"),
    "resnet50": Recipe(keras.applications.resnet, "ResNet50", "conv5_block1_1_conv"),
    "efficientnetb0": Recipe(keras.applications.efficientnet, "EfficientNetB0", "block6a_expand_conv"),
    "mobilenetv2": Recipe(keras.applications.mobilenet_v2, "MobileNetV2", "block_13_expand"),
}


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 images to train, 20 to validate and 20 to test with, half of each of two classes."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for label, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", 80), ("validation", 10), ("test", 10)):
            below = folder / split / label
            below.mkdir(parents=True)
            for number in range(count):
                side = int(random.integers(SIDE, 256))
                y, x = (int(random.integers(0, extent - side)) for extent in pixels.shape[:2])
                cut = Image.fromarray(pixels[y : y + side, x : x + side]).resize((SIDE, SIDE))
                cut.save(below / f"{number}.jpg", quality=92)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_tunes_loaded_weights_from_the_head_downwards_to_its_end(convoy, photographs, tmp_path, name):
    recipe = RECIPES[name]
    model = random_features(recipe, photographs)
    file = tmp_path / f"{name}.weights.h5"
    model.save_weights(file)
    words = [f"trainer={name}", f"trainer.model.weights={file}", f"data.path={photographs}", f"run_id={name}"]
    said = convoy.run(*words, *JOB, timeout_s=1000)
    assert convoy.json(name, "outcome.json")["state"] == "succeeded", said
    changes = [event["details"] for event in convoy.events(name, "phase")]
    found = [(each["phase"], each["step"], each["steps"]) for each in changes]
    assert found == [(2, EPOCH, 3 * EPOCH), (3, 4 * EPOCH, 2 * EPOCH)]
    check_moved(model, recipe.upper_from, [tensors_at(convoy, name, EPOCH * epochs) for epochs in (1, 4, 6)])
    losses = dict(curve(convoy.runs / name / "tensorboard" / "train", "loss"))
    head, upper = (np.mean([losses[step] for step in range(end - 15, end + 1, 5)]) for end in (EPOCH, 4 * EPOCH))
    assert upper < 0.8 * head, losses
    assert convoy.json(name, "report/metrics.json")["num_examples"] == 20
    assert (convoy.runs / name / "export" / "saved_model" / "saved_model.pb").exists()


def random_features(recipe: Recipe, photographs: Path) -> keras.Model:
    """The published model, at random, its BatchNorm knowing the images: otherwise it gives nearly zero for any."""
    keras.utils.set_random_seed(0)
    model = getattr(recipe.module, recipe.application)(weights=None, input_shape=(SIDE, SIDE, 3))
    files = sorted(photographs.glob("train/*/*.jpg"))
    images = recipe.module.preprocess_input(np.stack([np.array(Image.open(file), np.float32) for file in files]))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    return model


def tensors_at(convoy: Any, run_id: str, step: int) -> dict[str, np.ndarray]:
    tensors, _ = load(RunDir(str(convoy.runs), run_id), step)
    return tensors


def check_moved(model: keras.Model, upper_from: str, ends: list[dict[str, np.ndarray]]) -> None:
    """At the ends of its phases the head had moved, then the upper part, at last all; the rest kept every bit."""
    layers = [layer for layer in model.layers if layer.weights and not has_a_made_up_name(layer)]
    names = [layer.name for layer in layers]
    upper = names.index(upper_from)
    body = range(len(layers) - 1)  # the last is the head of the published model, which has other classes
    assert 0 < upper < body[-1]
    for at in body:
        for weight in layers[at].weights:
            loaded = weight.numpy()
            moved = [not np.array_equal(stored(tensors, weight.path), loaded) for tensors in ends]
            assert moved[0] is False and (at >= upper or moved[1] is False), f"{weight.path} was frozen"
            # A bias may have no gradient; a kernel that is trained moves.
            assert moved[1:] == [at >= upper, True] or "kernel" not in weight.path, f"{weight.path} did not move"


def has_a_made_up_name(layer: keras.Layer) -> bool:
    """Such as conv2d_3: another number in another process."""
    return layer.name.startswith(("conv2d", "batch_normalization"))


def stored(tensors: dict[str, np.ndarray], path: str) -> np.ndarray:
    (found,) = (value for name, value in tensors.items() if name.startswith("model/") and name.endswith(f"/{path}"))
    return found
