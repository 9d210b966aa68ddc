"""Stage 2: refinement of weights or features around a fixed code."""
