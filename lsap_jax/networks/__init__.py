"""Trained networks that judge or encode images."""
