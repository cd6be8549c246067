"""Studies, one file each: what to type, on what machine, how long it takes and which numbers to expect."""
