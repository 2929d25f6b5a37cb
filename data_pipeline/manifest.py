"""What a prepared set says about itself: `manifest.json`, written last, so that a set without it is not prepared."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from conf.errors import BadSpec
from conf.schema import Encoding
from data_pipeline.records import CRC_BYTES, ENCODED, FORMAT, HEADER_BYTES, HEIGHT, KEY, LABEL, WEIGHT, WIDTH
from storage.data_dir import MANIFEST
from storage.store import NotStored, open_store

FORMAT_VERSION = 2
#: 1 had no labels and keys beside its shards.
READABLE_VERSIONS = (1, 2)
#: What each Example holds, as tf.io.parse_example calls it. The weight is there where it is not 1.
FEATURES = {
    ENCODED: "bytes",
    FORMAT: "bytes: jpeg or png; raw in a set of encoding pixels",
    HEIGHT: "int64",
    WIDTH: "int64",
    LABEL: "int64",
    KEY: "bytes",
    WEIGHT: "float",
}


@dataclass(frozen=True)
class Shard:
    """One TFRecord file, and what lies beside it for each record, in order.

    Its `.index` has an (offset, length) pair of uint64 for the Example's bytes, `.labels` the label as int32, `.keys`
    the source's key as a line of JSON. Sets of format 1 have neither labels nor keys there: their crc32c are None.
    """

    name: str
    num_examples: int
    num_bytes: int
    crc32c: int
    index_crc32c: int
    class_counts: list[int]
    labels_crc32c: int | None = None
    keys_crc32c: int | None = None


@dataclass(frozen=True)
class Split:
    """One split: its examples in stored order are those of its shards, one after the other."""

    num_examples: int
    class_counts: list[int]
    shards: list[Shard]


@dataclass(frozen=True)
class ImageSizes:
    """The smallest and largest sides of the stored images, and their channels (1 grey, 3 colour)."""

    min_height: int
    max_height: int
    min_width: int
    max_width: int
    min_channels: int
    max_channels: int

    @property
    def largest_side(self) -> int:
        """The longest side of any image."""
        return max(self.max_height, self.max_width)

    @property
    def uniform(self) -> bool:
        """Whether all images have one size."""
        return self.min_height == self.max_height and self.min_width == self.max_width


@dataclass(frozen=True)
class Manifest:
    """A prepared set. `url` is where it was found and is not stored."""

    url: str
    name: str
    classes: list[str]
    splits: dict[str, Split]
    images: ImageSizes
    seed: int
    digest: str
    num_skipped: int = 0
    encoding: str = Encoding.files.name  # of Encoding; sets of before do not say
    features: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def num_classes(self) -> int:
        """How many classes there are, also such as no training example has."""
        return len(self.classes)

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        stored = asdict(self)
        del stored["url"]
        return (json.dumps(stored, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def load_manifest(url: str) -> Manifest:
    """The manifest of the prepared set at `url`; BadSpec when there is none or it cannot be understood."""
    try:
        text = open_store(url).get(MANIFEST)
    except NotStored as error:
        law = f"there is no prepared set here: {MANIFEST} is missing"
        raise BadSpec.of("data.path", url, law, "prepare it first with job=prepare, or mend the URL") from error
    try:
        return _parse(json.loads(text), url)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        law = f"its {MANIFEST} cannot be understood: {type(error).__name__}: {error}"
        raise BadSpec.of("data.path", url, law, "prepare it again into an empty folder") from error


def _parse(stored: dict[str, Any], url: str) -> Manifest:
    if stored["format_version"] not in READABLE_VERSIONS:
        raise ValueError(f"format {stored['format_version']}, this Convoy reads {READABLE_VERSIONS[-1]} and older")
    splits = {
        name: Split(split["num_examples"], split["class_counts"], [Shard(**shard) for shard in split["shards"]])
        for name, split in stored["splits"].items()
    }
    if stored.get("encoding", Encoding.files.name) not in Encoding.__members__:
        raise ValueError(f"encoding {stored['encoding']}, this Convoy reads {', '.join(Encoding.__members__)}")
    for name, split in splits.items():
        if split.num_examples != sum(shard.num_examples for shard in split.shards):
            raise ValueError(f"the shards of {name} do not add up to {split.num_examples} examples")
        _check_counts(name, split, len(stored["classes"]))
    known = {entry.name for entry in fields(Manifest)} - {"url", "splits", "images"}
    rest = {name: value for name, value in stored.items() if name in known}
    return Manifest(url=url, splits=splits, images=ImageSizes(**stored["images"]), **rest)


def _check_counts(name: str, split: Split, num_classes: int) -> None:
    """Raise ValueError where the numbers of a split contradict one another; names the shard."""
    for shard in split.shards:
        counts = shard.class_counts
        if len(counts) != num_classes or sum(counts) != shard.num_examples or min(counts, default=0) < 0:
            raise ValueError(f"{shard.name}: its class_counts are not {shard.num_examples} examples of the classes")
        if shard.num_bytes < shard.num_examples * (HEADER_BYTES + CRC_BYTES):
            raise ValueError(f"{shard.name}: {shard.num_bytes} bytes cannot hold {shard.num_examples} examples")
    if list(split.class_counts) != [sum(column) for column in zip(*(shard.class_counts for shard in split.shards))]:
        raise ValueError(f"the class_counts of the shards of {name} do not add up to the split's")
