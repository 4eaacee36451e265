"""In: what arrived is appended to landing, and raw is made from it."""
