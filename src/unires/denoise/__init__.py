"""Denoisers behind one interface; checkpoints. Knows nothing of photos or experts."""
