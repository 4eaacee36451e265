"""Watermarks of sources, batches of restatements, and what published figures were computed with."""

import sqlalchemy as sa
from alembic import op

from analytics_dagster.lake.state_tables import UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("publications", sa.Column("basis", sa.Text(), nullable=True))
    op.create_table(
        "watermarks",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("table_name", sa.String(length=64), nullable=False),
        sa.Column("newest_event", UtcDateTime(), nullable=False),
        sa.Column("last_arrival", UtcDateTime(), nullable=False),
        sa.Column("closed_through", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "table_name", name=op.f("pk_watermarks")),
    )
    op.create_table(
        "restatement_batches",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("asset", sa.String(length=128), nullable=False),
        sa.Column("batch", sa.String(length=32), nullable=False),
        sa.Column("table_version", sa.BigInteger(), nullable=False),
        sa.Column("days", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("noted_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "asset", name=op.f("pk_restatement_batches")),
    )
