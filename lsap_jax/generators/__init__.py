"""Style codes to images."""
