"""Who: the tenants of an installation."""
