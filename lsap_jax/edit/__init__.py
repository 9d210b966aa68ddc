"""Directions, regions, and the edit law."""
