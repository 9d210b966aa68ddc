"""Stage 1: from an image to its code."""
