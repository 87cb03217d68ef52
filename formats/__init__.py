"""Forms of data sets: each file reads one form of record into a Sample."""
