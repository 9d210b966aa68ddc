"""How good an inversion or an edit is."""
