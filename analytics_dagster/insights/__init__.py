"""What it means: findings of a tenant's day, the page that tells them, and the pictures that show them.

Nothing here knows Dagster or where tables lie: series, anomalies, forecasts and check outcomes come in as values, a page,
rows and SVG come out. Claims are about what moved together, never about causes.
"""
