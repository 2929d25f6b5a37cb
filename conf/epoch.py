"""How long an epoch is. Pure: the launcher's plan, the data pipeline and the trainer all ask it."""

from collections.abc import Sequence

from conf.schema import Oversample


def places_in_epoch(num_examples: int, class_counts: Sequence[int], oversample: Oversample | None) -> int:
    """Places of an epoch over a split of so many examples, so many of each class: one for each example, or, balanced,
    as many for each class that has any as the largest has.
    """
    if oversample is None:
        return num_examples
    return max(class_counts, default=0) * sum(count > 0 for count in class_counts)
