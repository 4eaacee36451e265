"""When: Dagster's resources, partitions, jobs, schedules, sensors and ops. Each is thin: load, call a domain function, write."""
