"""Models: nano, smollm2, any hub id or folder; preparation of target and references."""
