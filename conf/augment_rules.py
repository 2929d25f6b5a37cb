"""What the random changes of images may be asked for."""

from conf.errors import Problem
from conf.schema import AugmentSpec, DataSpec

#: Operations of RandAugment that an image can go through.
MOST_OPERATIONS = 8

_SHARES = ("brightness", "contrast", "saturation", "erasing")
_LIMITS = {  # smallest and largest value, and what they are
    "hue": (0, 0.5, "turns of the circle of hues"),
    "rotation": (0, 180, "degrees"),
    "translation": (0, 1, "shares of the side"),
    "shear": (0, 60, "degrees"),
    "zoom": (0, 0.9, "a share of the size"),
    "randaugment_ops": (0, MOST_OPERATIONS, "a number of changes"),
    "randaugment_magnitude": (0, 30, "a strength"),
    "mixup": (0, 16, "the alpha of a Beta distribution"),
    "cutmix": (0, 16, "the alpha of a Beta distribution"),
    "pad_crop": (0, 1024, "pixels"),
}


def mixes(augment: AugmentSpec) -> bool:
    """Whether pictures of two examples are put together."""
    return augment.mixup > 0 or augment.cutmix > 0


def problems(data: DataSpec) -> list[Problem]:
    """Everything that is wrong with `data.augment`."""
    augment, found = data.augment, []
    if not 0 < augment.crop_min_area <= 1:
        law = "the smallest share of an image that a crop keeps is in (0, 1]"
        found.append(Problem("data.augment.crop_min_area", augment.crop_min_area, law, "1 switches cropping off"))
    if not 0 < augment.crop_min_ratio <= augment.crop_max_ratio < float("inf"):
        law = f"the narrowest crop is no wider than the widest, {augment.crop_max_ratio:g}, and both are above 0"
        cure = "data.augment.crop_min_ratio=0.75 data.augment.crop_max_ratio=1.33"
        found.append(Problem("data.augment.crop_min_ratio", augment.crop_min_ratio, law, cure))
    for name in _SHARES:
        found += _outside(name, getattr(augment, name), 0, 1, "a share")
    for name, (low, high, what) in _LIMITS.items():
        found += _outside(name, getattr(augment, name), low, high, what)
    for name in ("saturation", "hue"):
        if data.channels == 1 and getattr(augment, name):
            law = "grey images (data.channels=1) have no colours to change"
            cure = f"data.augment.{name}=0, or data.channels=3"
            found.append(Problem(f"data.augment.{name}", getattr(augment, name), law, cure))
    return found


def _outside(name: str, value: float, low: float, high: float, what: str) -> list[Problem]:
    if low <= value <= high:
        return []
    law = f"is {what} in [{low:g}, {high:g}]"
    return [Problem(f"data.augment.{name}", value, law, f"data.augment.{name}=0 switches it off")]
