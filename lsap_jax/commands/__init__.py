"""What the command-line entry points call: flags in, library calls, results out."""
