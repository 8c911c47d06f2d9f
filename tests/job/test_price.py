"""A job's cost: by the operator's settings; 0 without them."""

import pytest

from server.config import Config
from server.job.price import cost_of


def test_without_a_price_list_everything_is_free() -> None:
    assert cost_of(None, Config()) == cost_of((8192, 8192), Config()) == 0


@pytest.mark.parametrize(
    ("per_job", "per_megapixel", "size", "cost"),
    [
        (0.02, 0, None, 0.02),
        (0.02, 0, (4096, 4096), 0.02),
        (0, 0.001, None, 0),
        (0, 0.001, (2000, 1000), 0.002),
        (0.01, 0.002, (1000, 1000), 0.012),
        (0.01, 0.002, (1, 1), 0.01),  # rounded to a millionth
    ],
)
def test_a_job_costs_its_own_price_and_that_of_its_pixels(
    per_job: float, per_megapixel: float, size: tuple[int, int] | None, cost: float
) -> None:
    assert cost_of(size, Config(price_per_job=per_job, price_per_megapixel=per_megapixel)) == cost
