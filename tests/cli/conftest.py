"""The small simulated homes of these tests."""

from small_home import copied, landed_home, materialized_home

__all__ = ["copied", "landed_home", "materialized_home"]
