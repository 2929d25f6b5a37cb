"""What test_models.py does for some, for every model of keras.applications: minutes. `make models`."""

import pytest

from tests.trainer import test_models

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("name", test_models.PUBLISHED)
def test_a_model_has_as_many_parameters_as_was_published(name):
    test_models.check_count(name)


@pytest.mark.parametrize("name", test_models.PUBLISHED)
def test_the_smallest_image_is_the_familys(name):
    test_models.check_smallest(name)


@pytest.mark.parametrize("name", test_models.PUBLISHED)
def test_pixels_reach_the_network_as_keras_preprocesses_them(name):
    test_models.check_pixels(name)
