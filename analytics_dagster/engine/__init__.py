"""The Python API: points recorded from a program, into the log of this machine's home or through a server."""
