"""Which number of an example's draws decides what. `order.draws` makes them, from (seed, epoch, example) alone."""

from conf.augment_rules import MOST_OPERATIONS, mixes
from conf.schema import AugmentSpec

#: Columns of the draws. New ones go to the end, so that old jobs keep their pictures.
FLIP, PAD_Y, PAD_X, AREA, RATIO, CROP_Y, CROP_X, BRIGHTNESS, CONTRAST = range(9)
ROTATION, SHIFT_Y, SHIFT_X, SHEAR, ZOOM, SATURATION, HUE = range(9, 16)
ERASED, ERASED_AREA, ERASED_RATIO, ERASED_Y, ERASED_X = range(16, 21)
MIXED, MIXED_HOW, CUT_Y, CUT_X = range(21, 25)
#: One column an operation of RandAugment.
RANDAUGMENT = 25
NUM_DRAWS = RANDAUGMENT + MOST_OPERATIONS


def num_draws(augment: AugmentSpec) -> int:
    """How many columns are looked at: up to the last that decides anything, 0 where nothing is changed."""
    ends = (
        (CONTRAST + 1, changes_colour(augment) or augment.flip or augment.pad_crop or augment.crop_min_area < 1),
        (ZOOM + 1, warps(augment)),
        (HUE + 1, augment.saturation or augment.hue),
        (ERASED_X + 1, augment.erasing),
        (CUT_X + 1, mixes(augment)),
        (RANDAUGMENT + augment.randaugment_ops, augment.randaugment_ops),
    )
    return max((end for end, used in ends if used), default=0)


def is_active(augment: AugmentSpec) -> bool:
    """Whether anything is changed at all."""
    return num_draws(augment) > 0


def warps(augment: AugmentSpec) -> bool:
    """Whether images are rotated, shifted, sheared or zoomed."""
    return any((augment.rotation, augment.translation, augment.shear, augment.zoom))


def changes_colour(augment: AugmentSpec) -> bool:
    """Whether brightness, contrast, saturation or hue change."""
    return any((augment.brightness, augment.contrast, augment.saturation, augment.hue))
