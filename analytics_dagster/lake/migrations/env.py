"""Alembic's entry point: runs on the connection that `migrations.upgrade` hands over."""

from alembic import context

from analytics_dagster.lake.database import VERSION_TABLE
from analytics_dagster.lake.state_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
