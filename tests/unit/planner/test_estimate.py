import pytest

from appliance.planner.estimate import ALLOWANCE_BYTES, HEADROOM, estimate, limit_bytes
from tests.helpers.models import GIB, MIB, variant


def test_the_sum_is_weights_and_every_slots_whole_context_and_buffers() -> None:
    need = estimate(variant(weights_bytes=GIB, kv_bytes_per_token=1024), context=4096, slots=2)
    assert need.kv_bytes == 1024 * 4096 * 2
    assert need.total_bytes == GIB + 8 * MIB + ALLOWANCE_BYTES
    assert limit_bytes(need) == int(need.total_bytes * HEADROOM)


def test_the_arithmetic_is_shown_with_its_result() -> None:
    need = estimate(variant(weights_bytes=GIB, kv_bytes_per_token=1024), context=4096, slots=2)
    assert need.arithmetic() == ("weights 1.0 GiB + KV cache 8.0 MiB + buffers 384.0 MiB = 1.4 GiB")


def test_a_header_that_does_not_say_makes_the_sum_not_known_and_the_limit_generous() -> None:
    need = estimate(variant(weights_bytes=GIB, kv_bytes_per_token=None), context=4096, slots=2)
    assert need.kv_bytes is None
    assert need.total_bytes is None
    assert "KV cache not known" in need.arithmetic()
    assert limit_bytes(need) == int((4 * GIB + ALLOWANCE_BYTES) * HEADROOM)


@pytest.mark.parametrize("kv", [0, 1])
def test_a_cache_of_nothing_is_known(kv: int) -> None:
    assert estimate(variant(kv_bytes_per_token=kv), 64, 1).kv_bytes == 64 * kv
