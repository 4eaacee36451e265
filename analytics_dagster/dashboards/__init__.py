"""Pages on which people look at a tenant's figures: what is on them, what is asked for, their data, pictures and HTML.

No web framework here: `server/dashboards.py` serves these pages, and whoever sends one as a report makes it from the same parts.
"""
