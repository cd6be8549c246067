"""One step of a method beside its authors' PyTorch code, on the same weights and the same batch."""
