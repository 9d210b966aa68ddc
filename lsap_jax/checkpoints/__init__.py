"""Readers of weight files and their conversion."""
