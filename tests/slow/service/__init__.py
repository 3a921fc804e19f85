"""A service in trouble: hostile requests, killed processes, full disks, more than it can do."""
