"""What people would use otherwise, doing the join benchmark's work: each in an environment of its own."""
