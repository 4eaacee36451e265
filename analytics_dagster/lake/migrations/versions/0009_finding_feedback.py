"""What people said of findings: useful, or dismissed."""

import sqlalchemy as sa
from alembic import op

from analytics_dagster.lake.state_tables import UtcDateTime

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "finding_feedback",
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("story", sa.String(length=16), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("author", sa.String(length=255), nullable=False),
        sa.Column("said_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", "story", name=op.f("pk_finding_feedback")),
    )
