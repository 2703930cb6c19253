"""Weights that come to the device block by block, or group by group."""
