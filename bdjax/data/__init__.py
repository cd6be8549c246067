"""Rows inside the trace: what is read, stamped, warped and augmented."""
