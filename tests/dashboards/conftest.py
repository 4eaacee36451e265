"""The small materialized service, and little lakes that a test fills with rows."""

from __future__ import annotations

from metrics.conftest import catalogue, figures
from small_home import copied, landed_home, materialized_home

__all__ = ["catalogue", "copied", "figures", "landed_home", "materialized_home"]
