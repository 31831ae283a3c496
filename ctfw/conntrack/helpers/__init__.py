"""One file per helper; ``inspect`` picks the one of a connection."""
