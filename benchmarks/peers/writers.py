"""A folder of JPEGs into four shards, as each library's own writer does it.

    python -m benchmarks.peers.writers SIDE FOLDER OUT

Prints {"images_per_s": ..., "images_per_cpu_s": ...} of the writing alone: FOLDER/few is written first, so that nothing
is imported or made for the first time meanwhile, the files of FOLDER/photographs are in the page cache, and there is
memory for what will be written. Every side has one core; those called `..._two` have two processes on two. `copy` is
what any writer that syncs has to do at least: read the files, write their bytes into as many shards, each begun to be
sent to the disk as it is made, and sync those. `apart_two` are two of `convoy`, each with half of the photographs: all
that one does alone is done by both at once.
"""

import json
import mmap
import os
import resource
import sys
import time
from pathlib import Path

SHARDS = 4
TWO = "_two"


def labelled(folder):
    """Path and label of each image, sorted."""
    names = sorted(os.listdir(folder))
    return [(path, names.index(path.parent.name)) for path in sorted(Path(folder).glob("*/*.jpg"))]


def convoy(folder, out, files, shards=SHARDS):
    """`python -m data_pipeline.prepare` as the launcher starts it: a process for each core it may use."""
    from conf.files import dump_job
    from conf.schema import DataSpec, JobSpec, SplitSpec
    from data_pipeline.prepare import main

    split = SplitSpec(1.0, 0.0, 0.0)
    job = JobSpec(data=DataSpec(name="folder", path=folder, out=out, split=split, num_shards=shards))
    Path(f"{out}.yaml").write_text(dump_job(job))
    return lambda: main(["--job", f"{out}.yaml"])


def apart_two(folder, out, files):
    """Two preparations that know nothing of one another, each of half of the photographs and alone on its core."""
    mains = []
    for half in range(2):
        for path, _ in files[half::2]:
            link = Path(f"{folder}-{half}", path.parent.name, path.name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.hardlink_to(path)
        mains.append(convoy(f"{folder}-{half}", f"{out}/{half}", files, SHARDS // 2))
    return lambda: in_two(lambda half: mains[half]())


def in_two(work):
    """Do `work(0)` and `work(1)` in a process each, on cores of their own."""
    cores, children = sorted(os.sched_getaffinity(0)), []
    for number in range(2):
        children.append(os.fork())
        if not children[-1]:
            code = 1
            try:
                os.sched_setaffinity(0, {cores[number % len(cores)]})
                code = work(number) or 0
            finally:
                os._exit(code)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("one of two processes failed")


def tfrecord_writer(folder, out, files):
    import tensorflow as tf

    def example(path, label):
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[path.read_bytes()])),
            "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    def write():
        for shard in range(SHARDS):
            with tf.io.TFRecordWriter(f"{out}/{shard:05d}.tfrecord") as writer:
                for path, label in files[shard::SHARDS]:
                    writer.write(example(path, label))

    return write


def tfrecord_writer_synced(folder, out, files):
    write = tfrecord_writer(folder, out, files)

    def write_and_sync():
        write()
        for name in (*(f"{shard:05d}.tfrecord" for shard in range(SHARDS)), "."):
            file = os.open(f"{out}/{name}", os.O_RDONLY)
            os.fsync(file)
            os.close(file)

    return write_and_sync


def copy(folder, out, files):
    shard = copier(out, files)
    return lambda: [shard(number) for number in range(SHARDS)]


def copy_two(folder, out, files):
    shard = copier(out, files)

    def half(first):
        for number in range(first, SHARDS, 2):
            shard(number)

    return lambda: in_two(half)


def copier(out, files):
    from data_pipeline.allocator import keep_freed_memory
    from storage.whole_files import sync_folder, write_into

    keep_freed_memory()

    def shard(number):
        with open(f"{out}/{number:05d}", "xb", buffering=0) as file:
            pieces = (path.read_bytes() for path, _ in files[number::SHARDS])
            write_into(file, pieces, known=lambda: 0, sending=True)
            os.fsync(file.fileno())
        sync_folder(Path(out))

    return shard


def array_record(folder, out, files):
    from array_record.python import array_record_module
    from data_pipeline.records import Record, encode  # the same bytes of an Example, at no cost of TensorFlow's

    def write():
        for shard in range(SHARDS):
            writer = array_record_module.ArrayRecordWriter(f"{out}/{shard:05d}.array_record", "group_size:1")
            for path, label in files[shard::SHARDS]:
                writer.write(encode(Record(path.read_bytes(), "jpeg", 375, 500, label, path.name)))
            writer.close()

    return write


def webdataset(folder, out, files):
    import webdataset

    def write():
        for shard in range(SHARDS):
            with webdataset.TarWriter(f"{out}/{shard:05d}.tar", encoder=False) as writer:
                for path, label in files[shard::SHARDS]:
                    writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": str(label).encode()})

    return write


def tensorflow_datasets(folder, out, files):
    import tensorflow_datasets as tfds

    class Photographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            names = sorted({path.parent.name for path, _ in files})
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=names)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for path, label in files:
                yield path.name, {"image": path, "label": label}

    tfds.disable_progress_bar()
    builder = Photographs(data_dir=out)
    return builder.download_and_prepare


WRITERS = {
    "convoy": convoy,
    "convoy_two": convoy,
    "apart_two": apart_two,
    "TFRecordWriter": tfrecord_writer,
    "TFRecordWriter, synced": tfrecord_writer_synced,
    "tensorflow-datasets": tensorflow_datasets,
    "WebDataset": webdataset,
    "ArrayRecord": array_record,
    "copy": copy,
    "copy_two": copy_two,
}


def cpu_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def have_at_hand(num_bytes):
    """Take and free so much memory.

    A virtual machine may give free memory back to its host (free page reporting). To take a page anew then costs three
    times what writing to it does, and every side but those that happen to follow another at once would pay for that.
    """
    mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def main():
    side, place, out = sys.argv[1:]
    if not side.endswith(TWO):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    writers = {}
    for folder in ("few", "photographs"):
        files = labelled(f"{place}/{folder}")
        os.makedirs(f"{out}/{folder}")
        writers[folder] = WRITERS[side](f"{place}/{folder}", f"{out}/{folder}", files)
    writers["few"]()
    num_bytes = sum(len(path.read_bytes()) for path, _ in files)
    have_at_hand(2 * num_bytes)
    started, cpu = time.perf_counter(), cpu_s()
    failed = writers["photographs"]()
    wall, used = time.perf_counter() - started, cpu_s() - cpu
    print(json.dumps({"images_per_s": len(files) / wall, "images_per_cpu_s": len(files) / used}), flush=True)
    os._exit(failed if isinstance(failed, int) else 0)


if __name__ == "__main__":
    main()
