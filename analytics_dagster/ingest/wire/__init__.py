"""Wire formats: bytes as clients send them to points and plays. Pure functions; nothing here reads a clock or a file."""
