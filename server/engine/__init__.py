"""Runs networks over pictures on one device: in tiles or sweeps, for several jobs at once."""
