"""Latent spaces, their statistics, and the alignment of codes."""
