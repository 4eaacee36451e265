"""Out: the `analytics` command. Each verb reads, calls one domain function and writes; formats and exit codes are a contract."""
