"""Weights that Keras wrote, in each of its formats, and Convoy's own checkpoints, put into a new model."""

import functools
import http.server
import json
import os
import threading
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format
from sklearn.datasets import load_sample_images

from conf.errors import BadSpec
from conf.schema import ModelSpec, TrainerSpec
from storage.run_dir import RunDir
from trainer import checkpoints, pretrained
from trainer.averages import WeightAverages
from trainer.models import build_model
from trainer.models.application import backbone_of
from trainer.optimizers import make_optimizer
from trainer.pretrained import matching
from trainer.pretrained.sources import layers_at
from trainer.state import TrainingState

SIDE = 64


class Heard:
    """A channel that keeps what is said."""

    stop_requested = False

    def __init__(self) -> None:
        self.said: list[dict] = []

    def say(self, kind: str, **fields: object) -> None:
        self.said.append(fields)


def photographs() -> np.ndarray:
    images = load_sample_images().images
    return np.stack([image[40 : 40 + SIDE, 300 : 300 + SIDE] for image in images]).astype(np.float32)


def shaken(model: keras.Model, seed: int = 5) -> keras.Model:
    """`model` with every weight drawn anew, moving statistics too, so that its output says what it sees."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        value = variable.numpy()
        if "moving_variance" in variable.path or "gamma" in variable.path:
            variable.assign(random.uniform(0.6, 1.4, value.shape))
        elif variable.name == "kernel":
            fan_in = np.prod(value.shape[:-1]) if value.shape[-1] > 1 else np.prod(value.shape[:2])
            variable.assign(random.normal(0, np.sqrt(2 / fan_in), value.shape))
        elif variable.name != "count":
            variable.assign(value + random.normal(0, 0.05, value.shape))
    return model


def spec(weights: str, name: str = "mobilenetv2") -> ModelSpec:
    return ModelSpec(name=name, weights=weights, options={"alpha": 0.35} if name == "mobilenetv2" else {})


def model_of(spec: ModelSpec, num_classes: int = 10) -> keras.Model:
    return build_model(spec, (SIDE, SIDE, 3), num_classes)


def features(model: keras.Model) -> np.ndarray:
    """What the last layer sees of two photographs, before any preprocessing."""
    return keras.Model(model.input, model.get_layer("logits").input)(photographs(), training=False).numpy()


@functools.cache
def donor() -> keras.Model:
    """A MobileNetV2 as a user of Keras has it: with its head for seven classes."""
    backbone = backbone_of("mobilenetv2")
    return shaken(backbone(weights=None, alpha=0.35, classes=7, input_shape=(SIDE, SIDE, 3)))


@functools.cache
def expected() -> np.ndarray:
    pooled = keras.Model(donor().input, donor().layers[-1].input)
    found = pooled(keras.applications.mobilenet_v2.preprocess_input(photographs())).numpy()
    assert np.abs(found[0] - found[1]).max() > 0.1  # it sees something
    return found


def nested() -> keras.Model:
    """The donor's backbone as a layer of another model, as tutorials do it."""
    inputs = keras.Input((SIDE, SIDE, 3))
    body = keras.Model(donor().input, donor().layers[-3].output, name="backbone")
    pooled = keras.layers.GlobalAveragePooling2D()(body(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)))
    return keras.Model(inputs, keras.layers.Dense(3)(pooled))


def write(kind: str, folder: Path) -> Path:
    """A file that Keras writes."""
    path = folder / {"weights": "a.weights.h5", "whole": "a.h5", "keras2": "b.h5", "keras": "a.keras"}.get(
        kind, "n.keras"
    )
    if kind == "weights":
        donor().save_weights(path)
    elif kind == "keras2":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, donor())
    elif kind == "nested":
        nested().save(path)
    else:
        donor().save(path)
    return path


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("kind", ["weights", "whole", "keras2", "keras", "nested"])
def test_a_file_of_keras_gives_the_features_of_the_model_it_was_written_from(kind, tmp_path, caplog):
    model, heard = model_of(spec(str(write(kind, tmp_path)))), Heard()
    caplog.set_level("INFO")
    report = pretrained.load(model, spec(str(write(kind, tmp_path))), heard)
    np.testing.assert_allclose(features(model), expected(), rtol=1e-4, atol=1e-4)
    assert report.missing == ["logits/kernel", "logits/bias"] and not report.mismatched
    assert len(report.loaded) == len(model.weights) - 2
    assert len(report.skipped) == 2 and all("predictions" in name or "dense" in name for name in report.skipped)
    assert "logits/kernel, logits/bias" in caplog.text and "Conv1/kernel" in caplog.text
    (event,) = heard.said
    assert (
        event["details"]["missing"] == report.missing
        and "260 loaded, 2 not in the file" in event["details"]["words"][0]
    )


def test_a_file_without_the_names_of_layers_is_read_by_their_classes(tmp_path):
    # As Keras 3 wrote them at first.
    path = write("weights", tmp_path)
    with h5py.File(path, "r+") as file:
        file.visititems(lambda name, found: found.attrs.pop("name", None) if name.endswith("vars") else None)
    model = model_of(spec(str(path)))
    report = pretrained.load(model, spec(str(path)), Heard())
    np.testing.assert_allclose(features(model), expected(), rtol=1e-4, atol=1e-4)
    assert len(report.loaded) == len(model.weights) - 2


def test_weights_come_over_http_and_from_a_store(tmp_path):
    path = write("weights", tmp_path)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"http://127.0.0.1:{server.server_port}"
        for url in (f"{web}/a.weights.h5", f"file://{path}"):
            with layers_at(url) as layers:
                np.testing.assert_array_equal(layers["Conv1",]["0"].read(), donor().get_layer("Conv1").kernel)
        with pytest.raises(BadSpec, match=r"trainer\.model\.weights=http.*cannot be fetched.*404"):
            pretrained.load(model_of(spec("none")), spec(f"{web}/gone.weights.h5"), Heard())
        server.shutdown()


def test_a_checkpoint_gives_all_but_a_head_of_other_classes(tmp_path):
    trained = shaken(model_of(spec("none")))
    optimizer = make_optimizer(TrainerSpec(), 10)
    optimizer.build(trained.trainable_variables)
    state = TrainingState(trained, optimizer, None)
    checkpoints.save(RunDir(str(tmp_path), "first"), 7, state.snapshot(), {"progress": {}}, 0)
    for url in (f"{tmp_path}/first", f"{tmp_path}/first/checkpoints/step_00000007"):
        model = model_of(spec(url), 4)
        report = pretrained.load(model, spec(url), Heard())
        np.testing.assert_array_equal(features(model), features(trained))
        assert [name.split()[0] for name in report.mismatched] == ["logits/kernel", "logits/bias"]
        assert not report.missing and not report.skipped
    same = model_of(spec(url))
    assert len(pretrained.load(same, spec(url), Heard()).loaded) == len(same.weights)
    np.testing.assert_array_equal(same(photographs()), trained(photographs()))


def test_a_checkpoint_with_averages_gives_the_averages(tmp_path):
    trained = model_of(spec("none", "convnet"))
    averages = WeightAverages(tf.distribute.get_strategy(), trained, 0.9)  # of what it is before it is shaken
    before = features(trained)
    shaken(trained)
    optimizer = make_optimizer(TrainerSpec(), 10)
    optimizer.build(trained.trainable_variables)
    state = TrainingState(trained, optimizer, None, averages)
    checkpoints.save(RunDir(str(tmp_path), "averaged"), 7, state.snapshot(), {"progress": {}}, 0)
    wanted = spec(f"{tmp_path}/averaged", "convnet")
    model = shaken(model_of(wanted), seed=6)
    assert len(pretrained.load(model, wanted, Heard()).loaded) == len(model.weights)
    np.testing.assert_array_equal(features(model), before)
    assert np.abs(before - features(trained)).max() > 0.1


def test_names_that_keras_made_up_are_compared_by_their_rank():
    def network() -> keras.Model:
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(3, 1)(inputs)
        x = keras.layers.Conv2D(3, 1)(keras.layers.BatchNormalization()(x))
        return keras.Model(inputs, keras.layers.Conv2D(3, 1, name="last")(x))

    first, second = shaken(network(), 1), network()
    assert first.layers[1].name != second.layers[1].name
    report = matching.place(second, matching.layers_of_model(first))
    assert len(report.loaded) == len(first.weights) and not report.missing + report.skipped
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_efficientnet_normalises_as_its_weights_were_trained(tmp_path, monkeypatch):
    # A file in the place and with the checksum of Keras's download: Keras adds a layer for it, which ours has not.
    network = keras.src.applications.efficientnet
    trained = shaken(backbone_of("efficientnetb0")(weights=None, include_top=False))
    trained.get_layer(index=2).adapt_mean.assign([0.4, 0.5, 0.6])
    trained.get_layer(index=2).adapt_variance.assign([0.3, 0.2, 0.1])
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "efficientnetb0_notop.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, trained)
    checksum = keras.src.utils.file_utils.hash_file(path, algorithm="md5")
    monkeypatch.setitem(network.WEIGHTS_HASHES, "b0", ("", checksum))
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    theirs = network.EfficientNetB0(weights="imagenet", include_top=False, pooling="avg")
    wanted = theirs(photographs()).numpy()
    theirs.save(tmp_path / "theirs.keras")
    for weights in ("imagenet", f"{tmp_path}/theirs.keras"):
        model = model_of(spec(weights, "efficientnetb0"))
        pretrained.load(model, spec(weights, "efficientnetb0"), Heard())
        np.testing.assert_allclose(features(model), wanted, rtol=1e-3, atol=1e-4)
    plain = model_of(spec(str(path), "efficientnetb0"))
    pretrained.load(plain, spec(str(path), "efficientnetb0"), Heard())
    own = keras.Model(trained.input, keras.layers.GlobalAveragePooling2D()(trained.output))
    own.get_layer(index=2).finalize_state()
    np.testing.assert_allclose(features(plain), own(photographs()), rtol=1e-3, atol=1e-4)
    assert np.abs(features(plain) - wanted).max() > 1e-3


@pytest.mark.parametrize("name", ["mobilenetv2", "xception"])
def test_real_weights_give_keras_features_of_photographs(name, repository):
    folder = Path(os.environ.get("CONVOY_TEST_WEIGHTS") or repository.parent / "shared" / "weights")
    path = folder / f"{name}_notop.weights.h5"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in {folder} (CONVOY_TEST_WEIGHTS names another folder)")
    images = np.stack([image[:96, 200:296] for image in load_sample_images().images]).astype(np.float32)
    theirs = backbone_of(name)(weights=str(path), include_top=False, pooling="avg")
    wanted = theirs(images / 127.5 - 1).numpy()
    asked = ModelSpec(name=name, weights=str(path))
    model = build_model(asked, (96, 96, 3), 10)
    report = pretrained.load(model, asked, Heard())
    found = keras.Model(model.input, model.get_layer("logits").input)(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.5 and report.missing == ["logits/kernel", "logits/bias"]


def refusal(weights: str) -> str:
    with pytest.raises(BadSpec) as refused:
        pretrained.load(model_of(spec("none")), spec(weights), Heard())
    return str(refused.value)


def test_what_holds_no_weights_is_refused(tmp_path):
    assert "no such file" in refusal(f"{tmp_path}/gone.h5")
    assert "no run with a whole checkpoint" in refusal(f"{tmp_path}/gone")
    (tmp_path / "noise.h5").write_bytes(bytes(range(256)) * 9)
    assert "cannot be read" in refusal(f"{tmp_path}/noise.h5")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "no model.weights.h5 in it" in refusal(f"{tmp_path}/other.keras")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])
    other.save_weights(tmp_path / "other.weights.h5")
    said = refusal(f"{tmp_path}/other.weights.h5")
    assert "none of its weights fits mobilenetv2: 0 loaded, 262 not in the file" in said
    assert "the ImageNet weights of convnet" not in said
    with pytest.raises(BadSpec, match="Keras has no ImageNet weights of convnet"):
        pretrained.load(model_of(ModelSpec()), ModelSpec(weights="imagenet"), Heard())


def test_nothing_of_a_file_is_run_or_followed(tmp_path):
    path = write("keras", tmp_path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "bare.keras", "w") as bare:
        bare.writestr("config.json", json.dumps({"module": "os", "class_name": "abort"}))
        bare.writestr("model.weights.h5", whole.read("model.weights.h5"))
    model = model_of(spec("none"))
    pretrained.load(model, spec(f"{tmp_path}/bare.keras"), Heard())
    np.testing.assert_allclose(features(model), expected(), rtol=1e-4, atol=1e-4)
    weights = write("weights", tmp_path)
    with h5py.File(tmp_path / "links.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = h5py.ExternalLink(str(weights), "layers/conv2d/vars/0")
    assert "link to another place" in refusal(f"{tmp_path}/links.weights.h5")
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("model.weights.h5", bytes(50_000_000))
    assert "says it is 50000000 bytes" in refusal(f"{tmp_path}/bomb.keras")
