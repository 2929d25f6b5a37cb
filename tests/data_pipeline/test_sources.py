"""Every source against the arrays and files it was made of, and what it says when they are wrong."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from conf.errors import BadSpec
from conf.schema import DataSpec
from data_pipeline.encoding import BadImage, encode_image
from data_pipeline.manifest import Manifest
from data_pipeline.sources import ALL, Example, Source, open_source

Prepare = Callable[..., Manifest]
IMAGES = load_digits().images.astype(np.uint8)
LABELS = load_digits().target


def opened(**data: object) -> Source:
    return open_source(DataSpec(**data), 0)  # type: ignore[arg-type]


def pixels(source: Source, split: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(encode_image(e, None).data))) for e in source.splits[split]])


def labels(source: Source, split: str) -> list[int]:
    return [example.label for example in source.splits[split]]


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(BadSpec, match=r"data\.name=cifar - .*did you mean cifar10\?"):
        opened(name="cifar")


# folder


def test_a_flat_folder(folder: Path) -> None:
    source = opened(name="folder", path=str(folder))
    assert source.classes == ["china", "flower"] and labels(source, ALL) == [0] * 20 + [1] * 20
    assert source.splits[ALL][21].key == "flower/01.jpg"


@pytest.mark.parametrize("validation", [None, "val", "valid", "validation"])
def test_a_folder_with_splits(folder: Path, prepare_set: Prepare, validation: str | None) -> None:
    root = folder.parent / "split"
    for split in filter(None, ("train", "test", validation)):
        for name in ("china", "flower"):
            (root / split / name).mkdir(parents=True)
            for path in sorted((folder / name).iterdir())[: 10 if split == "train" else 5]:
                (root / split / name / f"{split}-{path.name}").write_bytes(path.read_bytes())
    manifest = prepare_set(name="folder", path=str(root))
    counts = {name: split.class_counts for name, split in manifest.splits.items()}
    if validation:
        assert counts == {"train": [10, 10], "validation": [5, 5], "test": [5, 5]}
    else:  # 2 of 10 is nearest to 2/9 of the training examples; the test split stays whole
        assert counts == {"train": [8, 8], "validation": [2, 2], "test": [5, 5]}


def test_cifar10_as_a_folder(cifar10_folder: Path) -> None:
    source = opened(name="folder", path=str(cifar10_folder))
    assert {split: len(examples) for split, examples in source.splits.items()} == {"train": 10_000, "test": 2_000}
    assert source.classes[0] == "airplane" and len(source.classes) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "there is nothing at this path"),
        (lambda root: root.mkdir(), "the folder is empty"),
        (lambda root: root.write_text("x"), "this is a file"),
        (lambda root: (root / "cats").mkdir(parents=True), "no image in the folders"),
    ],
)
def test_a_folder_that_is_none(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "root")
    with pytest.raises(BadSpec, match=rf"data\.path=.*{message}"):
        opened(name="folder", path=str(tmp_path / "root"))


def test_a_single_class(folder: Path, prepare_set: Prepare) -> None:
    for path in (folder / "flower").iterdir():
        path.unlink()
    with pytest.raises(BadSpec, match="a single class, china"):
        prepare_set(name="folder", path=str(folder))


def test_a_class_that_is_never_trained(folder: Path, prepare_set: Prepare) -> None:
    root = folder.parent / "split"
    (root / "train").mkdir(parents=True)
    (folder / "china").rename(root / "train" / "china")
    folder.rename(root / "test")
    with pytest.raises(BadSpec, match="class flower is in test but has no training example"):
        prepare_set(name="folder", path=str(root))


# csv


def test_a_table(folder: Path) -> None:
    rows = "china/00.jpg,10,train,2.5\nflower/00.jpg,9,train,\nflower/01.jpg,9,test,0\n"
    (folder / "table.csv").write_text("path,label,split,weight\n" + rows)
    source = opened(name="csv", path=str(folder / "table.csv"))
    assert source.classes == ["9", "10"]
    assert [(e.label, e.weight, e.key) for e in source.splits["train"]] == [
        (1, 2.5, "china/00.jpg"),
        (0, 1.0, "flower/00.jpg"),
    ]
    assert source.splits["test"][0].weight == 0 and source.splits["test"][0].image == folder / "flower" / "01.jpg"


def test_a_table_without_splits(folder: Path) -> None:
    (folder / "table.csv").write_text('path,label\nchina/00.jpg,"a, b"\nflower/00.jpg,c\n')
    source = opened(name="csv", path=str(folder / "table.csv"))
    assert source.classes == ["a, b", "c"] and labels(source, ALL) == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header path,label"),
        ("file,class\n", "its first line is file,class"),
        ("path,label\nchina/77.jpg,x\n", r"table.csv:2 - there is no file china/77\.jpg"),
        ("path,label\nchina/00.jpg,\n", "label is empty"),
        ("path,label\nchina/00.jpg,a,b\n", "not as many cells"),
        ("path,label\nchina/00.jpg\n", "not as many cells"),
        ("path,label,split\nchina/00.jpg,a,training\n", "split is 'training'"),
        ("path,label,weight\nchina/00.jpg,a,-1\n", "weight is '-1'"),
        ("path,label,weight\nchina/00.jpg,a,nan\n", "weight is 'nan'"),
    ],
)
def test_a_wrong_table(folder: Path, text: str, message: str) -> None:
    (folder / "table.csv").write_text(text)
    with pytest.raises(BadSpec, match=message):
        opened(name="csv", path=str(folder / "table.csv"))


# arrays


def test_npz_with_and_without_splits(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    np.savez(path, x_train=IMAGES[:50], y_train=LABELS[:50, None], x_test=IMAGES[50:60], y_test=LABELS[50:60])
    source = opened(name="npz", path=str(path))
    np.testing.assert_array_equal(pixels(source, "train"), IMAGES[:50])
    assert labels(source, "test") == LABELS[50:60].tolist() and source.classes == [str(d) for d in range(10)]
    np.savez(path, x=np.repeat(IMAGES[:, :, :, None], 3, 3), y=LABELS, classes=list("abcdefghij"))
    source = opened(name="npz", path=str(path))
    assert pixels(source, ALL).shape == (1797, 8, 8, 3) and source.classes[9] == "j"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "this .npz has images"),
        ({"x": IMAGES / 16, "y": LABELS}, "is float64"),
        ({"x": IMAGES.reshape(-1, 64), "y": LABELS}, r"has shape \[1797, 64\]"),
        ({"x": IMAGES, "y": LABELS[:5]}, "1797 images and 5 labels"),
        ({"x": IMAGES, "y": LABELS / 2}, "labels are integers"),
        ({"x": IMAGES, "y": LABELS - 1}, "has the label -1"),
        ({"x": np.array([{}], object), "y": LABELS}, "cannot be read"),
        ({"x": IMAGES, "y": LABELS, "classes": ["a", "b"]}, "label 2, there are 2 classes"),
    ],
)
def test_a_wrong_npz(tmp_path: Path, prepare_set: Prepare, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(BadSpec, match=message):
        prepare_set(name="npz", path=str(tmp_path / "wrong.npz"))


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files(tmp_path: Path, name: str, end: str) -> None:
    for split, part in (("train", slice(0, 90)), ("t10k", slice(90, 100))):
        for what, array in (("images-idx3", IMAGES[part]), ("labels-idx1", LABELS[part])):
            data = idx(array)
            (tmp_path / f"{split}-{what}-ubyte{end}").write_bytes(gzip.compress(data) if end else data)
    source = opened(name=name, path=str(tmp_path))
    np.testing.assert_array_equal(pixels(source, "train"), IMAGES[:90])
    assert labels(source, "test") == LABELS[90:100].tolist() and len(source.classes) == 10
    cut = tmp_path / f"t10k-labels-idx1-ubyte{end}"
    cut.write_bytes(cut.read_bytes()[:-4])
    with pytest.raises(BadSpec, match="this IDX file cannot be read"):
        opened(name=name, path=str(tmp_path))
    cut.unlink()
    with pytest.raises(BadSpec, match=r"t10k-labels-idx1-ubyte .* is missing"):
        opened(name=name, path=str(tmp_path))


RANDOM = np.random.default_rng(0)
CIFAR = RANDOM.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def python_batch(label: str, numbers: list[int], images: np.ndarray) -> bytes:
    """A pickle as Python 2 wrote the published ones (protocol 2), assembled by hand from its opcodes."""
    planes = images.transpose(0, 3, 1, 2).tobytes()

    def string(text: str) -> bytes:
        return b"U" + bytes([len(text)]) + text.encode() + b"q\x01"

    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02K\x00\x85q\x03(K\x01K\x02M\x00\x0c\x86q\x04"
    array += b"T" + len(planes).to_bytes(4, "little") + planes + b"tb"
    listed = b"]q\x05(" + b"".join(b"K" + bytes([number]) for number in numbers) + b"e"
    return b"\x80\x02}q\x00(" + string("data") + array + string(label) + listed + string("end") + b"U\x01xu."


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def cifar_files(version: str, num_classes: int) -> dict[str, bytes]:
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if num_classes == 10 else ["train", "test"]
    files = {}
    for number, name in enumerate(names):
        image = CIFAR[number : number + 1]
        if version == "python":
            files[name] = python_batch("labels" if num_classes == 10 else "fine_labels", [number], image)
        else:
            label = bytes([number]) if num_classes == 10 else bytes([9, number])
            files[f"{name}.bin"] = label + image.transpose(0, 3, 1, 2).tobytes()
    return files


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_cifar_archive(tmp_path: Path, version: str, num_classes: int, packed: bool) -> None:
    files, path = cifar_files(version, num_classes), tmp_path / "cifar"
    if packed:
        tar(path, files)
    else:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    source = opened(name=f"cifar{num_classes}", path=str(path))
    train = len(files) - 1
    np.testing.assert_array_equal(pixels(source, "train"), CIFAR[:train])
    np.testing.assert_array_equal(pixels(source, "test"), CIFAR[train : train + 1])
    assert labels(source, "train") == list(range(train)) and labels(source, "test") == [train]


def test_a_cifar_pickle_is_never_run(tmp_path: Path) -> None:
    files = cifar_files("python", 10)
    files["test_batch"] = b"\x80\x02cos\nsystem\nU\x0btouch " + str(tmp_path).encode() + b"/x\x85R."
    tar(tmp_path / "cifar", files)
    with pytest.raises(BadSpec, match="no CIFAR-10 archive"):
        opened(name="cifar10", path=str(tmp_path / "cifar"))
    assert not (tmp_path / "x").exists()


def test_what_is_not_there_and_what_is_no_archive(tmp_path: Path) -> None:
    tar(tmp_path / "cifar", {name: data for name, data in cifar_files("python", 10).items() if name != "data_batch_3"})
    with pytest.raises(BadSpec, match="data_batch_3 is missing"):
        opened(name="cifar10", path=str(tmp_path / "cifar"))
    (tmp_path / "cifar").write_bytes(b"no archive")
    with pytest.raises(BadSpec, match="no CIFAR-10 archive"):
        opened(name="cifar10", path=str(tmp_path / "cifar"))


# synthetic


def test_synthetic_pictures_depend_on_seed_and_index_alone() -> None:
    data = {"name": "synthetic", "num_examples": 30, "num_classes": 3, "image_size": 16}
    few, many = opened(**data), opened(**(data | {"num_examples": 60}))
    np.testing.assert_array_equal(pixels(few, ALL), pixels(many, ALL)[:30])
    assert pixels(few, ALL).shape == (30, 16, 16, 3) and np.bincount(labels(few, ALL)).tolist() == [10, 10, 10]
    other = open_source(DataSpec(**data), 1)  # type: ignore[arg-type]
    assert not np.array_equal(pixels(other, ALL), pixels(few, ALL))


# image files


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read_back(data: bytes, max_side: int | None = None) -> tuple[str, np.ndarray]:
    encoded = encode_image(Example(data, 0, "key"), max_side)
    array = np.asarray(Image.open(io.BytesIO(encoded.data)))
    assert array.shape[:2] == (encoded.height, encoded.width)
    assert encoded.channels == (3 if array.ndim == 3 else 1)
    return encoded.format, array


@pytest.fixture
def photograph(photographs: list[np.ndarray]) -> Image.Image:
    return Image.fromarray(photographs[0][100:160, 200:290])


def test_jpegs_are_stored_as_they_are(photograph: Image.Image) -> None:
    for image in (photograph, photograph.convert("L")):
        for trailing in (b"", b"\0\0trailing"):
            data = saved(image, "JPEG") + trailing
            assert encode_image(Example(data, 0, "key"), None).data == data


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (kind, mode)
        for kind in ("PNG", "BMP", "TIFF", "WEBP", "GIF")
        for mode in ("RGB", "L", "P", "RGBA", "LA", "1")
        if (kind, mode) != ("BMP", "LA")  # BMP has no such thing
    ],
)
def test_other_formats_are_stored_without_loss(photograph: Image.Image, kind: str, mode: str) -> None:
    image = photograph.convert("L").convert(mode) if mode == "LA" else photograph.convert(mode)
    data = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    encoded = encode_image(Example(data, 0, "key"), None)
    grey = Image.open(io.BytesIO(data)).mode in ("L", "LA", "1")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L" if grey else "RGB"))
    assert (encoded.format, encoded.channels) == ("png", 1 if grey else 3)
    seen = tf.io.decode_png(encoded.data, encoded.channels).numpy()  # as the pipeline does
    np.testing.assert_array_equal(seen[:, :, 0] if grey else seen, expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay(kind: str) -> None:
    image = RANDOM.integers(0, 2**16, (20, 30), dtype=np.uint16)
    format, array = read_back(saved(Image.fromarray(image), kind))
    assert format == "png"
    np.testing.assert_array_equal(array, image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photographs_are_put_upright(photograph: Image.Image, orientation: int) -> None:
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photograph, "JPEG", exif=exif)
    format, array = read_back(data)
    assert format == ("jpeg" if orientation == 1 else "png")
    np.testing.assert_array_equal(array, turns[orientation](np.asarray(Image.open(io.BytesIO(data)))))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_other_formats_are_put_upright_too(photograph: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    format, array = read_back(saved(photograph, kind, exif=exif, **options))
    assert format == "png"
    np.testing.assert_array_equal(array, np.rot90(np.asarray(photograph), 2 if orientation == 3 else -1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_either_byte_order(kind: str) -> None:
    image = RANDOM.integers(0, 2**16, (20, 30), dtype=np.uint16)
    source = Image.frombytes("I;16B", (30, 20), image.astype(">u2").tobytes())
    data = saved(source, kind) if kind == "TIFF" else saved(Image.fromarray(image), kind)
    np.testing.assert_array_equal(read_back(data)[1], image)


def test_long_images_of_sixteen_bits_keep_them() -> None:
    ramp = np.tile(np.linspace(0, 65535, 200).astype(np.uint16), (100, 1))
    format, array = read_back(saved(Image.fromarray(ramp), "PNG"), max_side=50)
    assert (format, array.shape, array.dtype) == ("png", (25, 50), np.uint16)
    assert np.abs(array[12].astype(int) - np.linspace(0, 65535, 50)).max() < 800


def test_printers_inks_of_other_formats_become_colours(photograph: Image.Image) -> None:
    data = saved(photograph.convert("CMYK"), "TIFF")
    np.testing.assert_array_equal(read_back(data)[1], np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_of_moving_pictures_the_first_is_kept(photograph: Image.Image) -> None:
    more = [photograph.rotate(180).convert("P")]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        first = photograph.convert("P") if kind == "GIF" else photograph
        data = saved(
            first, kind, save_all=True, append_images=more if kind == "GIF" else [photograph.rotate(180)], **options
        )
        np.testing.assert_array_equal(read_back(data)[1], np.asarray(first.convert("RGB")))


def test_transparent_palettes_become_colours(photograph: Image.Image) -> None:
    data = saved(photograph.convert("P"), "PNG", transparency=3)
    np.testing.assert_array_equal(read_back(data)[1], np.asarray(photograph.convert("P").convert("RGB")))


def test_printers_inks_become_colours(photograph: Image.Image) -> None:
    data = saved(photograph.convert("CMYK"), "JPEG", quality=100)
    format, array = read_back(data)
    assert format == "png"
    np.testing.assert_array_equal(array, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_long_images_are_made_smaller(photograph: Image.Image) -> None:
    for kind, format in (("JPEG", "jpeg"), ("PNG", "png")):
        stored, array = read_back(saved(photograph, kind), max_side=45)
        assert stored == format and array.shape == (30, 45, 3)
        small = np.asarray(photograph.resize((45, 30), Image.Resampling.LANCZOS), np.float32)
        assert np.abs(array - small).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_cut_images_are_refused(photograph: Image.Image, kind: str) -> None:
    data = saved(photograph, kind)
    with pytest.raises(BadImage):
        encode_image(Example(data[: len(data) // 2], 0, "key"), None)
