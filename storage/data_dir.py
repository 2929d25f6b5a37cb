"""The names inside a folder of prepared data."""

from storage.store import open_store

MANIFEST = "manifest.json"
REPORT = "prepare_report.json"


def shard_name(split: str, index: int, num_shards: int) -> str:
    """The TFRecord file number `index` of a split, such as train-00000-of-00004.tfrecord."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


def index_name(shard: str) -> str:
    """The file that says where in the shard each record lies."""
    return f"{shard}.index"


def labels_name(shard: str) -> str:
    """The file with the label of each record of the shard: int32, little-endian."""
    return f"{shard}.labels"


def keys_name(shard: str) -> str:
    """The file with the source's key of each record of the shard: a line each, as a JSON string."""
    return f"{shard}.keys"


def default_data_url(storage_root: str, data_name: str, digest: str) -> str:
    """Where prepared data goes when nobody says where; the digest stands for what decides the bytes."""
    return f"{storage_root.rstrip('/')}/_data/{data_name}-{digest}"


def is_prepared(url: str) -> bool:
    """Whether the folder holds a whole prepared set: its manifest is written last."""
    return open_store(url).exists(MANIFEST)
