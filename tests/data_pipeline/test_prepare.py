"""Preparing: the same bytes every time, whole or not at all, and what is wrong is said."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from conf.data_url import data_url
from conf.errors import BadSpec
from conf.exit_codes import BAD_SPEC, DONE
from conf.files import dump_job
from conf.schema import BadFile, DataSpec, JobSpec, SplitSpec, StorageSpec
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.prepare import main, prepare
from data_pipeline.reader import RecordReader
from data_pipeline.records import CorruptRecord, decode
from data_pipeline.report import in_words
from storage.data_dir import MANIFEST, is_prepared
from storage.source_files import content_mark

Prepare = Callable[..., Manifest]


def contents(manifest: Manifest) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(manifest.url).iterdir()}


def keys(manifest: Manifest, split: str) -> list[str]:
    paths = [str(Path(manifest.url, shard.name)) for shard in manifest.splits[split].shards]
    return [decode(record.numpy()).key for record in tf.data.TFRecordDataset(paths)]


def test_the_digits_are_scikit_learns(digits: Manifest) -> None:
    reference = load_digits()
    seen = 0
    for split in digits.splits.values():
        paths = [str(Path(digits.url, shard.name)) for shard in split.shards]
        for serialized in tf.data.TFRecordDataset(paths):
            record = decode(serialized.numpy())
            pixels = tf.io.decode_png(record.encoded).numpy()[:, :, 0]
            expected = reference.images[int(record.key)] * 255 / 16
            np.testing.assert_allclose(pixels, expected, atol=0.51)
            assert record.label == reference.target[int(record.key)]
            assert (record.height, record.width, record.format) == (8, 8, "png")
            seen += 1
    assert seen == 1797


def test_the_manifest_tells_what_the_shards_hold(digits: Manifest) -> None:
    assert load_manifest(digits.url) == digits
    for split in digits.splits.values():
        sizes = [shard.num_examples for shard in split.shards]
        assert sum(sizes) == split.num_examples and max(sizes) - min(sizes) <= 1
        for shard in split.shards:
            data = Path(digits.url, shard.name).read_bytes()
            index = Path(digits.url, f"{shard.name}.index").read_bytes()
            assert (len(data), google_crc32c.value(data)) == (shard.num_bytes, shard.crc32c)
            assert google_crc32c.value(index) == shard.index_crc32c
            records = [record.numpy() for record in tf.data.TFRecordDataset(str(Path(digits.url, shard.name)))]
            pairs = np.frombuffer(index, "<u8").reshape(-1, 2).tolist()
            assert [data[start : start + length] for start, length in pairs] == records
            labels = [decode(record).label for record in records]
            assert np.bincount(labels, minlength=10).tolist() == shard.class_counts
            beside = Path(digits.url, f"{shard.name}.labels").read_bytes()
            assert np.frombuffer(beside, "<i4").tolist() == labels
            assert google_crc32c.value(beside) == shard.labels_crc32c
            named = Path(digits.url, f"{shard.name}.keys").read_bytes()
            assert [json.loads(line) for line in named.splitlines()] == [decode(record).key for record in records]
            assert google_crc32c.value(named) == shard.keys_crc32c


def test_the_manifest_tells_features_seed_and_versions(digits: Manifest) -> None:
    """The features are such that TensorFlow parses every record by them; versions are those that are installed."""
    stored = json.loads(Path(digits.url, MANIFEST).read_text())
    assert stored["seed"] == digits.seed == 0
    assert stored["versions"].items() >= {name: version(name) for name in ("numpy", "pillow", "google-crc32c")}.items()
    kinds = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}
    described = {
        name: tf.io.FixedLenFeature([], kinds[text.split(":")[0]]) for name, text in stored["features"].items()
    }
    described["example/weight"] = tf.io.FixedLenFeature([], tf.float32, 1.0)
    paths = [str(Path(digits.url, shard.name)) for split in digits.splits.values() for shard in split.shards]
    parsed = tf.io.parse_example(list(tf.data.TFRecordDataset(paths)), described)
    assert set(np.unique(parsed["image/height"])) == {8} and len(set(parsed["image/key"].numpy())) == 1797
    (record,) = tf.data.TFRecordDataset(paths).take(1)
    there = set(tf.train.Example.FromString(record.numpy()).features.feature)
    assert there == set(stored["features"]) - {"example/weight"}


def test_the_labels_of_a_split_come_without_its_images(digits: Manifest) -> None:
    paths = [str(Path(digits.url, shard.name)) for shard in digits.splits["train"].shards]
    expected = [decode(record.numpy()).label for record in tf.data.TFRecordDataset(paths)]
    assert RecordReader(digits, "train").labels().tolist() == expected


def test_a_set_of_the_first_format_is_still_read(digits: Manifest, tmp_path: Path) -> None:
    """It had no labels and keys beside its shards, and said nothing of features."""
    stored = json.loads(Path(digits.url, MANIFEST).read_bytes()) | {"format_version": 1}
    del stored["features"]
    for split in stored["splits"].values():
        for shard in split["shards"]:
            del shard["labels_crc32c"], shard["keys_crc32c"]
            for name in (shard["name"], f"{shard['name']}.index"):
                shutil.copy(Path(digits.url, name), tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(stored))
    reader = RecordReader(load_manifest(str(tmp_path)), "test")
    assert reader.labels().tolist() == RecordReader(digits, "test").labels().tolist()


def test_damaged_labels_are_named(prepare_set: Prepare) -> None:
    manifest = prepare_set(name="digits")
    path = Path(manifest.url, f"{manifest.splits['test'].shards[0].name}.labels")
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(CorruptRecord, match=f"{path.name}: the labels are damaged"):
        RecordReader(manifest, "test").labels()


def test_splits_are_stratified_seven_two_one(digits: Manifest) -> None:
    total = np.sum([split.class_counts for split in digits.splits.values()], 0)
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        np.testing.assert_allclose(digits.splits[name].class_counts, total * share, atol=1.01)
    everything = [key for split in digits.splits for key in keys(digits, split)]
    assert len(set(everything)) == len(everything) == 1797


def test_the_same_source_gives_the_same_bytes(prepare_set: Prepare, folder: Path, tmp_path: Path) -> None:
    one = prepare_set(name="folder", path=str(folder), out=str(tmp_path / "one"), num_shards=2)
    other = prepare_set(name="folder", path=str(folder), out=str(tmp_path / "other"), num_shards=2)
    assert contents(one) == contents(other)
    assert len(contents(one)) == 3 * 2 * 4 + 3  # shard, index, labels, keys; manifest, report, source files
    moved = prepare_set(seed=1, name="folder", path=str(folder), out=str(tmp_path / "moved"), num_shards=2)
    assert sorted(keys(moved, "test")) != sorted(keys(one, "test"))


def test_what_is_prepared_is_not_prepared_again(prepare_set: Prepare, folder: Path) -> None:
    first = prepare_set(name="folder", path=str(folder))
    before = {path: path.stat().st_mtime_ns for path in Path(first.url).iterdir()}
    assert prepare_set(name="folder", path=str(folder)) == first
    assert {path: path.stat().st_mtime_ns for path in Path(first.url).iterdir()} == before


def test_a_source_that_has_changed_since_is_refused(prepare_set: Prepare, folder: Path, tmp_path: Path) -> None:
    asked = {"name": "folder", "path": str(folder), "out": str(tmp_path / "out")}
    first = prepare_set(**asked)
    for path in folder.rglob("*.jpg"):
        os.utime(path)
    assert prepare_set(**asked) == first  # touched, not changed
    shutil.copy(folder / "china" / "00.jpg", folder / "china" / "new.jpg")
    (folder / "flower" / "03.jpg").unlink()
    with pytest.raises(BadSpec) as refused:
        prepare_set(**asked)
    assert "1 file added (china/new.jpg), 1 removed (flower/03.jpg)" in str(refused.value)
    assert f"data.out=ANOTHER, or remove {first.url}" in str(refused.value)
    assert prepare_set(**asked | {"out": str(tmp_path / "another")}).splits["train"].num_examples
    assert prepare_set(name="tfrecord", path=first.url).digest == first.digest
    shutil.rmtree(folder)
    assert prepare_set(**asked) == first  # there is nothing left but what was prepared


def test_a_table_or_an_image_of_it_that_has_changed_is_refused(prepare_set: Prepare, folder: Path) -> None:
    rows = [f"{name}/{number:02d}.jpg,{name}" for name in ("china", "flower") for number in range(20)]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label", *rows]))
    prepare_set(name="csv", path=str(table))
    (folder / "china" / "unlisted.jpg").write_bytes(b"not in the table")
    prepare_set(name="csv", path=str(table))
    (folder / "china" / "00.jpg").write_bytes((folder / "china" / "01.jpg").read_bytes())
    with pytest.raises(BadSpec, match=r"1 file changed \(china/00\.jpg\)"):
        prepare_set(name="csv", path=str(table))


def test_another_set_in_its_place_is_refused(prepare_set: Prepare, folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    prepare_set(name="folder", path=str(folder), out=out)
    with pytest.raises(BadSpec, match=r"data\.out=.*another set"):
        prepare_set(name="digits", out=out)


def test_a_prepared_set_is_read_by_its_url(prepare_set: Prepare, digits: Manifest, tmp_path: Path) -> None:
    assert prepare_set(name="tfrecord", path=digits.url) == digits
    with pytest.raises(BadSpec, match=r"no prepared set here"):
        prepare_set(name="tfrecord", path=str(tmp_path / "nothing"))


def test_the_url_follows_what_decides_the_bytes() -> None:
    job = JobSpec(data=DataSpec(name="folder", path="photos"))
    same = [
        replace(job, run_id="another"),
        replace(job, data=replace(job.data, path=os.path.abspath("photos"))),
        replace(job, data=replace(job.data, image_size=64, channels=1)),
    ]
    other = [
        replace(job, seed=1),
        replace(job, data=replace(job.data, path="others")),
        replace(job, data=replace(job.data, max_side=64)),
        replace(job, data=replace(job.data, split=SplitSpec(0.5, 0.25, 0.25))),
    ]
    assert {data_url(each) for each in same} == {data_url(job)}
    assert len({data_url(each) for each in [job, *other]}) == 5
    assert data_url(job).startswith("runs/_data/folder-")


def test_parts_share_the_work(prepare_set: Prepare, folder: Path, tmp_path: Path) -> None:
    alone = prepare_set(name="folder", path=str(folder), num_shards=3)
    data = DataSpec(name="folder", path=str(folder), num_shards=3)
    job = JobSpec(data=data, storage=StorageSpec(root=str(tmp_path / "shared")))
    assert prepare(job, 1, 2) is None and not is_prepared(data_url(job))
    together = prepare(job, 0, 2)
    assert together is not None
    assert contents(together) == contents(alone)


def test_a_killed_preparation_goes_on(tmp_path: Path, repository: Path) -> None:
    """Killed at many moments: nothing looks prepared before all of it is, and in the end all of it is right."""
    data = DataSpec(name="synthetic", num_examples=900, num_shards=8)
    whole = prepare(JobSpec(data=data, storage=StorageSpec(root=str(tmp_path / "whole"))))
    assert whole is not None
    job = JobSpec(data=data, storage=StorageSpec(root=str(tmp_path / "killed")))
    (tmp_path / "job.yaml").write_text(dump_job(job))
    command = [sys.executable, "-m", "data_pipeline.prepare", "--job", str(tmp_path / "job.yaml")]
    url, kills = Path(data_url(job)), 0
    for shards in (1, 4, 9, 16):
        process = subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(url.glob("*.tfrecord"))) < shards:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not is_prepared(str(url)) or contents(load_manifest(str(url))) == contents(whole)
    assert kills >= 3
    done = max(path.stat().st_mtime_ns for path in url.glob("*.note.json"))
    finished = [path for path in url.glob("*.tfrecord") if path.stat().st_mtime_ns < done]
    times = {path: path.stat().st_mtime_ns for path in finished}
    assert subprocess.run(command, cwd=repository, stderr=subprocess.DEVNULL, check=False).returncode == DONE
    assert times and {path: path.stat().st_mtime_ns for path in finished} == times
    assert contents(load_manifest(str(url))) == contents(whole)  # nothing that was unfinished either


def test_what_a_power_cut_leaves_is_never_taken_for_whole(
    prepare_set: Prepare, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of what is synced and what is named: before a note all that it tells of, before the manifest all."""
    calls: list[tuple[str, str]] = []

    def noted(name: str, place: int, named: Callable[[Any], str]) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (calls.append((name, named(args[place]))), real(*args))[1])

    noted("fsync", 0, lambda file: os.readlink(f"/proc/self/fd/{file}"))
    noted("replace", 1, str)
    noted("link", 1, str)
    manifest = prepare_set(name="folder", path=str(folder), num_shards=3)
    synced = [path for name, path in calls if name == "fsync"]
    shards = [f"{manifest.url}/{shard.name}" for split in manifest.splits.values() for shard in split.shards]
    end = calls.index(("link", f"{manifest.url}/manifest.json"))
    for shard in shards:
        named = calls.index(("replace", f"{shard}.note.json"))
        for name in (shard, f"{shard}.index", f"{shard}.labels", f"{shard}.keys"):
            hidden = f"/.{Path(name).name}."
            own = next(at for at, (what, path) in enumerate(calls) if what == "fsync" and hidden in path)
            assert own < calls.index(("replace", name)) < named < end
    last = max(at for at, (name, _) in enumerate(calls) if name == "replace")
    assert ("fsync", manifest.url) in calls[last:end]
    # Six for each shard: its five files, and their folder. For the set: folders that are made, report, list of source
    # files, their folder, the manifest, its folder, and at last the folder without the notes.
    assert len(shards) == 9 and len(synced) <= 6 * len(shards) + 9


def test_progress_and_errors_go_to_the_pipe(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSpec(name="folder", path=str(folder))
    (tmp_path / "job.yaml").write_text(dump_job(JobSpec(data=data, storage=StorageSpec(root=str(tmp_path / "runs")))))
    read, write = os.pipe()
    monkeypatch.setenv("CONVOY_PROGRESS_FD", str(write))
    assert main(["--job", str(tmp_path / "job.yaml")]) == DONE
    (tmp_path / "job.yaml").write_text(dump_job(JobSpec(data=replace(data, path=str(tmp_path / "none")))))
    assert main(["--job", str(tmp_path / "job.yaml")]) == BAD_SPEC
    os.close(write)
    with os.fdopen(read) as pipe:
        lines = [json.loads(line) for line in pipe]
    progress = [line for line in lines if line["kind"] == "progress"]
    assert progress[-1] | {"step": 40, "steps": 40, "phase": "preparing"} == progress[-1]
    assert lines[-2]["event"] == "prepared" and lines[-2]["details"]["examples"]["train"] == 28
    assert lines[-1]["error_kind"] == "bad_spec" and "none" in lines[-1]["message"]


def test_preparing_never_imports_tensorflow(repository: Path) -> None:
    code = "import sys, data_pipeline.prepare; sys.exit('tensorflow' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


def test_unreadable_images_stop_and_are_named(prepare_set: Prepare, folder: Path) -> None:
    (folder / "china" / "99.png").write_bytes(b"this is no image")
    jpeg = folder / "flower" / "07.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:-200])
    with pytest.raises(BadSpec) as caught:
        prepare_set(name="folder", path=str(folder), split=SplitSpec(1.0, 0.0, 0.0))
    assert "china/99.png - cannot be read as an image" in str(caught.value)
    assert "flower/07.jpg - cannot be read as an image: image file is truncated" in str(caught.value)
    assert "on_bad_file=skip" in str(caught.value)


def test_unreadable_images_are_skipped_and_counted(prepare_set: Prepare, folder: Path) -> None:
    (folder / "china" / "99.png").write_bytes(b"")
    manifest = prepare_set(name="folder", path=str(folder), on_bad_file=BadFile.skip)
    report = json.loads(Path(manifest.url, "prepare_report.json").read_text())
    assert manifest.num_skipped == 1 and sum(split.num_examples for split in manifest.splits.values()) == 40
    assert report["skipped"] == {"count": 1, "files": {"china/99.png": "the file is empty"}}
    named = "1 file was left out, unreadable as images (china/99.png: the file is empty)"
    assert any(named in line for line in in_words(report))


def test_leaks_and_imbalance_are_reported(prepare_set: Prepare, folder: Path) -> None:
    for name in ("china", "flower"):
        (folder / "train" / name).parent.mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
        (folder / "test" / name).mkdir(parents=True)
    for path in list((folder / "train" / "flower").iterdir())[1:]:
        path.rename(folder / "test" / "flower" / path.name)
    leak = (folder / "train" / "china" / "03.jpg").read_bytes()
    (folder / "test" / "china" / "leak.jpg").write_bytes(leak)
    manifest = prepare_set(name="folder", path=str(folder), split=SplitSpec(1.0, 0.0, 0.0))
    report = json.loads(Path(manifest.url, "prepare_report.json").read_text())
    leaks = report["duplicates_across_splits"]
    assert leaks == {"count": 1, "first": [{"train": ["train/china/03.jpg"], "test": ["test/china/leak.jpg"]}]}
    assert len(report["warnings"]) == 2 and "20 examples of china, 1 of flower" in report["warnings"][1]
    assert report["classes"]["flower"] == {"train": 1, "test": 19}
    assert report["imbalance"] | {"ratio": 20.0} == report["imbalance"]
    said = "\n".join(in_words(report))
    assert "examples       train 21, test 20" in said
    assert "2; training examples: most of china 20, fewest of flower 1" in said
    assert "1 image is in more than one split, such as train/china/03.jpg (train) = test/china/leak.jpg (test)" in said
    sides = [max(Image.open(io.BytesIO(path.read_bytes())).size) for path in folder.rglob("*.jpg")]
    expected = {"33-64": sum(side <= 64 for side in sides), "65-128": sum(side > 64 for side in sides)}
    assert report["image_sizes"]["histogram"] == expected


def test_images_that_only_look_alike_are_no_leaks(prepare_set: Prepare, folder: Path, tmp_path: Path) -> None:
    """Same length, same beginning, middle and end: only their whole contents tell them apart."""
    image = Image.open(folder / "china" / "00.jpg").resize((700, 700))
    for split, comment in (("train", b"a"), ("test", b"b")):
        for name in ("china", "flower"):
            path = tmp_path / "alike" / split / name / "image.jpg"
            path.parent.mkdir(parents=True)
            image.rotate(90 if name == "china" else 0).save(
                path, quality=95, comment=b"." * 9000 + comment + b"." * 900
            )
    ends = {content_mark(path.read_bytes()) for path in (tmp_path / "alike").rglob("*.jpg")}
    assert len(ends) == 2  # so both pairs are looked at closely
    manifest = prepare_set(name="folder", path=str(tmp_path / "alike"), split=SplitSpec(1.0, 0.0, 0.0))
    report = json.loads(Path(manifest.url, "prepare_report.json").read_text())
    assert report["duplicates_across_splits"]["count"] == 0


def test_a_broken_manifest_is_named(digits: Manifest, tmp_path: Path) -> None:
    for text in (
        b"{",
        b"{}",
        Path(digits.url, MANIFEST).read_bytes().replace(b'format_version": 2', b'format_version": 9'),
    ):
        (tmp_path / MANIFEST).write_bytes(text)
        with pytest.raises(BadSpec, match="cannot be understood"):
            load_manifest(str(tmp_path))
