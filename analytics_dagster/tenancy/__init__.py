"""Who: the tenants of an installation, their keys and roles, what each may use, what it used, and who changed any of it."""
